#!/bin/bash
# Any command of sas-imc that takes --cluster, on the nodes of one SLURM job:
#
#     sbatch --ntasks=32 examples/slurm.sh sasc study run study.toml
#     sbatch --ntasks=32 examples/slurm.sh sasrun prog.s --eval imagenet --engine fused
#
# The first node has the scheduler and the command; every task is one worker with the CPUs that SLURM gives it.
#SBATCH --cpus-per-task=1
#SBATCH --output=sasimc-%j.log
set -euo pipefail
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs of one node keep apart
address="tcp://$(hostname):$port"
exec 3>"sasimc-$SLURM_JOB_ID.dask.log"
dask scheduler --host "$address" --dashboard-address 127.0.0.1:0 >&3 2>&1 &
scheduler=$!
srun dask worker "$address" --nthreads "${SLURM_CPUS_PER_TASK:-1}" --no-dashboard --death-timeout 120 --local-directory "${TMPDIR:-/tmp}" >&3 2>&1 &
trap 'kill $scheduler; wait' EXIT # without their scheduler the workers end
until (exec 4<>"/dev/tcp/$(hostname)/$port") 2>/dev/null; do kill -0 $scheduler && sleep 1; done
"$@" --cluster "$address"
