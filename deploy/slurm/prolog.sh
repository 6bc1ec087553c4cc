#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Slurm prolog (slurm.conf, Prolog=): notes which of this node's GPUs a job was given, in a file of its own, so that the
# gpuledger agent knows whose they are before a process uses them. Needs PrologFlags=Alloc; see README.md beside this.
#
# It never fails the job: a prolog that does drains the node.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
directory=${GPULEDGER_JOBS_DIR:-/run/gpuledger/jobs}

note() {
	echo "job=$SLURM_JOB_ID"
	echo "user=${SLURM_JOB_USER:-}"
	echo "gpus=$SLURM_JOB_GPUS"
	# UUIDs from Slurm 25.11 on, and of GPU instances (MIG) before; else the numbers again.
	echo "devices=${CUDA_VISIBLE_DEVICES:-}"
	echo "sluid=${SLURM_JOB_SLUID:-}"
	echo "start=$(date +%s)"
	echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
}

if [ -n "${SLURM_JOB_ID:-}" ] && [ -n "${SLURM_JOB_GPUS:-}" ]; then
	umask 022
	mkdir -p "$directory"
	# Whoever reads the directory sees a file whole or not at all; names with a dot are nobody's yet.
	unfinished=$directory/.$SLURM_JOB_ID.$$
	if ! { note >"$unfinished" && mv -f "$unfinished" "$directory/$SLURM_JOB_ID"; }; then
		rm -f "$unfinished"
	fi
fi
exit 0
