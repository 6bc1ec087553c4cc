#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Slurm epilog (slurm.conf, Epilog=): takes away what prolog.sh noted of a job. It never fails, as that drains the node.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
directory=${GPULEDGER_JOBS_DIR:-/run/gpuledger/jobs}

[ -n "${SLURM_JOB_ID:-}" ] && rm -f "$directory/$SLURM_JOB_ID"
exit 0
