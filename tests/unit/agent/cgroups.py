# SPDX-License-Identifier: Apache-2.0
"""Texts of /proc/PID/cgroup of each runtime, and what they must be called: each row says where its form was seen.

Container ids are those of the sources where they are whole. `S` of a row is the program and version that wrote the
path (as far as its source says), and the public place where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

_SLURM = "https://github.com/SchedMD/slurm/blob"
_KEPLER = "https://github.com/sustainable-computing-io/kepler/blob/main/internal/resource/container_test.go"
_SPIRE = "https://github.com/spiffe/spire/blob/main/pkg/agent/plugin/workloadattestor/k8s/k8s_posix.go"
_SYSDIG = "https://github.com/falcosecurity/libs (test container_cgroup)"
_NEUVECTOR = "https://github.com/neuvector/neuvector/blob/main/share/system/cgroup_test.go"
_PODMAN = "https://github.com/podman-container-tools/podman"
_SYSTEMD = "https://www.freedesktop.org/software/systemd/man/latest/systemd.special.html"
_SONAR = "https://github.com/NordicHPC/sonar/blob/main/src/slurm.rs"

A = "99f3a16ea25b7724cb56a4f0c0df1113ad9474fbf5545bead97fd5c7f61c13f4"
B = "35b97177dada20362ab90d90ac63cd54e8a41cf87bea34f270631b6da17f4a93"
UID = "f6adb0af-0855-4bab-b25b-c853f18d0ce2"
UID_ = UID.replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A cgroup text, the name that it gives (None: a bare process) and the owner that its path names."""

    text: str
    name: str | None
    seen: str
    step: str | None = None
    owner_uid: int | None = None


SLURM = [
    Row(
        text="6:freezer:/slurm_vm/uid_0/job_1/step_batch\n4:memory:/\n0::/\n",
        name="slurm:1",
        step="batch",
        owner_uid=0,
        seen="Slurm 22.05.8 of Debian 12 (multiple slurmd), proctrack/cgroup: tests/integration/test_slurm.py",
    ),
    Row(
        text="10:devices:/slurm/uid_2101171/job_280678/step_interactive/task_0\n1:name=systemd:/system.slice/slurmd.service\n",
        name="slurm:280678",
        step="interactive",
        owner_uid=2101171,
        seen=f"cgroup v1: {_SONAR}; the second line is slurmd's own, which Slurm leaves there",
    ),
    Row(
        text="11:memory:/slurm/uid_1000/job_77/step_extern\n3:cpuset:/slurm/uid_1000/job_77\n",
        name="slurm:77",
        step="extern",
        owner_uid=1000,
        seen=f"{_SLURM}/slurm-20-11-0-1/src/plugins/task/cgroup (each controller has its own depth)",
    ),
    Row(
        text="0::/system.slice/slurmstepd.scope/job_1392969/step_0/user/task_0\n",
        name="slurm:1392969",
        step="0",
        seen=f"a compute node of 2025-03-13, cgroup v2: {_SONAR}",
    ),
    Row(
        text="0::/system.slice/gpu07_slurmstepd.scope/job_42/step_batch/user/task_special\n",
        name="slurm:42",
        step="batch",
        seen="Slurm 22.05, multiple slurmd, cgroup v2: https://github.com/plazonic/cgroup_exporter/issues/8",
    ),
    Row(
        text="0::/system.slice/slurmstepd.scope/job_501/step_0+1/user/task_0\n",
        name="slurm:501",
        step="0+1",
        seen=f"the second part of a heterogeneous step: {_SLURM}/slurm-24-11-0-1/src/common/log.c",
    ),
    Row(
        text="0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0/user/task_0\n",
        name="slurm:s5K1KKYAYG5D00",
        step="0",
        seen="Slurm 26.05 (SLUID): https://github.com/guilbaults/slurm-job-exporter/issues/66",
    ),
    Row(
        text=f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope"
        "/system.slice/slurm-0_slurmstepd.scope/job_9/step_0/user/task_0\n",
        name="slurm:9",
        step="0",
        seen=f"slurmd in a pod: the container's root before {_SLURM}/slurm-24-11-0-1/src/plugins/cgroup/v2/cgroup_v2.c",
    ),
    Row(
        text="0::/system.slice/slurmstepd.scope/system\n",
        name=None,
        seen=f"Slurm's own keeper of the scope: {_SLURM}/slurm-24-11-0-1/src/plugins/cgroup/v2/cgroup_v2.c",
    ),
]

PODS = [
    Row(
        text=f"11:blkio:/kubepods/burstable/pod{UID}/{B}\n0::/\n",
        name=f"pod:{UID}/35b97177dada",
        seen=f"cgroupfs driver, v1: {_KEPLER}",
    ),
    Row(
        text="12:pids:/kubepods/besteffort/pod63b3ebfc-2890-11e9-8154-16bf8ef8d9dc/"
        "crio-73bfe475650de66df8e2affdc98d440dcbe84f8df83b6f75a68a82eb7026136a\n",
        name="pod:63b3ebfc-2890-11e9-8154-16bf8ef8d9dc/73bfe475650d",
        seen=f"CRI-O, cgroupfs driver: {_SYSDIG}",
    ),
    Row(
        text="0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c9f8a79_5391_454b_88cb_86190881cb96"
        ".slice/crio-a09343ca97901516c25036e2b954421254f8c68b384b536064e8999f0c4ed18d.scope/container\n",
        name="pod:2c9f8a79-5391-454b-88cb-86190881cb96/a09343ca9790",
        seen=f"CRI-O, systemd driver, v2: {_KEPLER}; crun's own `container` below it",
    ),
    Row(
        text=f"0::/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{A}.scope\n",
        name=f"pod:{UID}/99f3a16ea25b",
        seen=f"containerd, systemd driver, guaranteed (no class in the path): {_SPIRE}",
    ),
    Row(
        text="13:memory:/system.slice/containerd.service/kubepods-besteffort-pod0043435f_1854_4327_b76b_730f681a781d.slice"
        ":cri-containerd:01fd96f7ad292b02a8317cde4ecb8c7ef3cc06ffdd113f13410e0837eb2b2a20\n",
        name="pod:0043435f-1854-4327-b76b-730f681a781d/01fd96f7ad29",
        seen=f"containerd without SystemdCgroup under a kubelet with it: {_KEPLER}",
    ),
    Row(
        text="12:cpu:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c48913c-b29f-11e7-9350-020968147796"
        ".slice/docker-9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961.scope\n",
        name="pod:2c48913c-b29f-11e7-9350-020968147796/9bca8d63d5fa",
        seen=f"Docker under a kubelet: {_SPIRE}",
    ),
    Row(
        text="0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podc704ef4c297ab11032b83ce52cbfc87b.slice/"
        "cri-containerd-2327a2aec169e25cf05f2a901486b7463fdb513ae097fc0ae6a3ca94381ddc42.scope\n",
        name="pod:c704ef4c297ab11032b83ce52cbfc87b/2327a2aec169",
        seen="a static pod, whose uid is a hash: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/",
    ),
    Row(
        text="0::/system.slice/docker-fd9d0ea06257a9780827cbc7fd92e3812a54fca26d63e191b73610d5d48b9cbd.scope/kubelet.slice/"
        "kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod"
        f"eab5a334_93fe_48a8_b139_9e8079c1f163.slice/cri-containerd-{A}.scope\n",
        name="pod:eab5a334-93fe-48a8-b139-9e8079c1f163/99f3a16ea25b",
        seen=f"a kind cluster within Docker: {_KEPLER}",
    ),
    Row(
        text=f"1:cpu:/docker/{B}/kubepods/besteffort/poddaa5c7ee-3484-4533-af39-3591564fd03e/{A}\n",
        name="pod:daa5c7ee-3484-4533-af39-3591564fd03e/99f3a16ea25b",
        seen=f"the same with the cgroupfs driver: {_SPIRE}",
    ),
    Row(
        text="0::/../../kubepods-besteffort-podfd698699_eabf_4c23_92ef_cf0bbdb78261.slice/"
        "docker-2cc65c162ca1388b6b8d5ccfb701d22fc96675ccf8b2f1590c490c2c4039547f.scope\n",
        name="pod:fd698699-eabf-4c23-92ef-cf0bbdb78261/2cc65c162ca1",
        seen=f"Docker 20.10.7 under a kubelet, read within a cgroup namespace: {_NEUVECTOR}",
    ),
    Row(
        text=f"0::/../../pod{UID}/{B}\n",
        name=f"pod:{UID}/35b97177dada",
        seen=f"the same with the cgroupfs driver, `kubepods` cut off: {_SPIRE}",
    ),
    Row(
        text="0::/../crio-45490e76e0878aaa4d9808f7d2eefba37f093c3efbba9838b6d8ab804d9bd814.scope\n",
        name="pod:?/45490e76e087",
        seen=f"the same from the pod next to it, its uid cut off: {_SPIRE}",
    ),
    Row(
        text=f"0::/kubepods.slice/kubepods-pod{UID_}.slice\n",
        name=f"pod:{UID}/?",
        seen=f"in the pod's slice and in none of its containers: {_SPIRE}",
    ),
]

CONTAINERS = [
    Row(
        text="12:devices:/docker/7951fb549ab99e0722a949b6c121634e1f3a36b5bacbe5392991e3b12251e6b8\n0::/\n",
        name="container:docker/7951fb549ab9",
        seen=f"Docker, cgroupfs driver, v1: {_SYSDIG}",
    ),
    Row(
        text="13:hugetlb:/system.slice/docker-2fa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c94.scope\n",
        name="container:docker/2fa3e04b676d",
        seen=f"Docker, systemd driver: {_KEPLER}",
    ),
    Row(
        text="0::/docker.slice/docker-7951fb549ab99e0722a949b6c121634e1f3a36b5bacbe5392991e3b12251e6b8.scope\n",
        name="container:docker/7951fb549ab9",
        seen=f"Docker with a slice of its own (--cgroup-parent): {_SYSDIG}",
    ),
    Row(
        text=f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n",
        name="container:docker/99f3a16ea25b",
        owner_uid=1000,
        seen="rootless Docker: https://docs.docker.com/engine/security/rootless/",
    ),
    Row(
        text="0::/machine.slice/libpod-06dc5f321aad8726aa26559f16ec203bc099245bc44894b14a89fc02b022d1d5.scope/container\n",
        name="container:podman/06dc5f321aad",
        seen=f"Podman as root: {_KEPLER}",
    ),
    Row(
        text="0::/user.slice/user-1000.slice/user@1000.service/user.slice/"
        "libpod-3f05ee050f82c0145f1d88c94269c39dff0f07dbf8bba20aafd54b3a75dcaecc.scope/container\n",
        name="container:podman/3f05ee050f82",
        owner_uid=1000,
        seen=f"rootless Podman: {_KEPLER}",
    ),
    Row(
        text="0::/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_"
        f"{B}.slice/libpod-{A}.scope/container\n",
        name="container:podman/99f3a16ea25b",
        owner_uid=1000,
        seen=f"a container of a Podman pod: {_PODMAN}/issues/6400",
    ),
    Row(
        text="4:memory:/libpod_parent/libpod-9ce45faf7719310972823ceeb3afaa4bc6c5b86fe1d59da60946fc12f42541ca\n",
        name="container:podman/9ce45faf7719",
        seen=f"Podman, --cgroup-manager=cgroupfs: debug logs in {_PODMAN}/issues",
    ),
    Row(
        text="0::/system.slice/kepler.service/"
        "libpod-payload-8e363eb2287da4ccc9f52ffc5de11252ac5fe707e3ddb917a3c0bdf9bb64165b\n",
        name="container:podman/8e363eb2287d",
        seen=f"Podman as a systemd unit (--cgroups=split): {_KEPLER}",
    ),
    Row(
        text=f"0::/machine.slice/libpod-conmon-{A}.scope\n",
        name=None,
        seen="Podman's monitor, which is not in the container (v1 and v2)",
    ),
    Row(
        text="0::/user.slice/user-10000.slice/user@10000.service/user.slice/podman-239302.scope\n",
        name=None,
        owner_uid=10000,
        seen=f"rootless Podman, --cgroups=disabled: {_PODMAN}/issues/20910",
    ),
    Row(
        text=f"0::/system.slice/nerdctl-{A}.scope\n",
        name="container:containerd/99f3a16ea25b",
        seen="nerdctl, systemd driver: https://github.com/containerd/nerdctl",
    ),
    Row(
        text=f"12:pids:/default/{A}\n11:memory:/default/{A}\n",
        name="container:containerd/99f3a16ea25b",
        seen="nerdctl, cgroupfs driver (containerd's namespace, then the id): https://github.com/containerd/nerdctl",
    ),
    Row(
        text="4:memory:/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970\n",
        name="container:oci/4f797c539e6c",
        seen=f"Docker of Debian, v1, the id alone: {_NEUVECTOR}",
    ),
    Row(
        text=f"0::/batch/{A}\n",
        name="container:oci/99f3a16ea25b",
        seen="Docker, cgroupfs driver, --cgroup-parent=/batch: nothing says whose it is",
    ),
    Row(
        text=f"0::/../docker-{A}.scope (deleted)\n",
        name="container:docker/99f3a16ea25b",
        seen="a cgroup that was removed under a zombie: cgroup_show_path in the kernel's kernel/cgroup/cgroup.c",
    ),
    Row(
        text="0::/user.slice/user-1000.slice/user@1000.service/user.slice/apptainer-196219.scope\n",
        name="container:apptainer/196219",
        owner_uid=1000,
        seen="Apptainer with limits, systemd driver: https://github.com/apptainer/apptainer/pull/336",
    ),
    Row(
        text="7:devices:/apptainer/196219\n",
        name="container:apptainer/196219",
        seen="Apptainer with limits, cgroupfs: apptainer's internal/pkg/cgroups/manager_linux.go",
    ),
    Row(
        text="0::/system.slice/singularity-4711.scope\n",
        name="container:singularity/4711",
        seen="SingularityCE with limits: https://github.com/apptainer/apptainer/pull/336",
    ),
    Row(
        text="0::/lxc.payload.gpu-box/user.slice/user-1000.slice/session-3.scope\n",
        name="container:lxc/gpu-box",
        owner_uid=1000,
        seen="LXC 4: https://linuxcontainers.org/lxc/",
    ),
    Row(text="9:devices:/lxc/gpu-box\n", name="container:lxc/gpu-box", seen="LXC 2 and 3, v1"),
]

UNITS = [
    Row(text="0::/system.slice/vllm.service\n", name="unit:vllm.service", seen=_SYSTEMD),
    Row(
        text="1:name=systemd:/system.slice/system-vllm.slice/vllm@3.service\n5:devices:/system.slice\n",
        name="unit:vllm@3.service",
        seen=f"a template's instance, v1: {_SYSTEMD}",
    ),
    Row(
        text="0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n",
        name="unit:user@1000.service/jupyter.service",
        owner_uid=1000,
        seen=f"a unit of a user's manager: {_SYSTEMD}",
    ),
    Row(
        text="0::/system.slice/jupyterhub.service/worker\n",
        name="unit:jupyterhub.service",
        seen="a delegated unit with cgroups of its own: https://systemd.io/CGROUP_DELEGATION/",
    ),
    Row(text="0::/system.slice/containerd.service\n", name="unit:containerd.service", seen="containerd and its shims"),
]

SESSIONS = [
    Row(
        text="0::/user.slice/user-1000.slice/session-3.scope\n",
        name=None,
        owner_uid=1000,
        seen=f"a login: {_SYSTEMD}; Apptainer and Enroot without limits, and rootless Podman on v1, stay in it",
    ),
    Row(
        text="0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-code-1234.scope\n",
        name=None,
        owner_uid=1000,
        seen=f"an application of a desktop: {_SYSTEMD}",
    ),
    Row(text="0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", name=None, owner_uid=1000, seen=_SYSTEMD),
    Row(text="0::/init.scope\n", name=None, seen=_SYSTEMD),
    Row(text="0::/\n", name=None, seen="the root of a machine, or of the reader's own cgroup namespace"),
    Row(text="0::/..\n", name=None, seen="above the root of the reader's cgroup namespace: man 7 cgroup_namespaces"),
    Row(text="", name=None, seen="a file that cannot be read"),
]

ROWS = [*SLURM, *PODS, *CONTAINERS, *UNITS, *SESSIONS]
