#!/usr/bin/env bash
# Run a command on a SLURM of one machine, this one, with two cores and two stand-in GPUs: slurm.sh FOLDER COMMAND...
# Needs root and Debian's slurm-wlm and munge. Logs stay in FOLDER; the rest ends with the command, or with this script.
set -euo pipefail
if [[ $# -lt 2 || $1 == *[[:space:]]* || -n $(ls -A "$1" 2> /dev/null) ]]; then
    echo "usage: slurm.sh FOLDER COMMAND..., FOLDER new or empty and without blanks in its name" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
mkdir -p "$folder"/{state,spool,run}
chmod 755 "$folder" "$folder/run" # munge's socket is for all

# Two free ports, so that several of these may run at once.
read -r controller node < <(python3 -c 'import socket
several = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in several))')

cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=10
GresTypes=gpu
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 Gres=gpu:2
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE State=UP
END
# A GPU without a file drains the node, and srun would wait for ever.
touch "$folder/gpu0" "$folder/gpu1"
echo "NodeName=node1 Name=gpu File=$folder/gpu[0-1]" > "$folder/gres.conf"
export SLURM_CONF=$folder/slurm.conf

stop() {
    trap - EXIT INT TERM HUP
    [[ -z ${command-} ]] || kill "$command" 2> /dev/null || true
    if [[ -n ${idle-} ]]; then # jobs first: what runs in them is no child of ours
        timeout 10 scancel --user=root || true
        for _ in {1..75}; do [[ $(timeout 10 squeue -h) ]] || break; sleep 0.2; done
    fi 2> /dev/null
    kill "${daemons[@]}" 2> /dev/null || true
    for _ in {1..25}; do [[ $(jobs -rp) ]] || return 0; sleep 0.2; done
    kill -9 $(jobs -rp) 2> /dev/null || true
}
daemons=()
trap stop EXIT
trap 'exit 143' INT TERM HUP

# NAME COMMAND...: a daemon that a Ctrl-C does not reach before the jobs have ended, and that ends with a kill -9 of this.
start() {
    setpriv --pdeathsig TERM setsid "${@:2}" < /dev/null > "$folder/$1.out" 2>&1 &
    daemons+=($!)
}
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 600 "$folder/munge.key"
start munged munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
for _ in {1..50}; do [[ -S $folder/run/munge.sock ]] && break; sleep 0.1; done
start slurmctld slurmctld -D
start slurmd slurmd -D -N node1

for _ in {1..150}; do
    [[ $(timeout 5 sinfo -h -o %t 2> /dev/null) == idle ]] && idle=yes && break
    [[ $(jobs -rp | wc -l) == "${#daemons[@]}" ]] || break # one has ended: no use waiting
    sleep 0.2
done
if [[ -z ${idle-} ]]; then
    echo "slurm.sh: the machine of this SLURM did not become idle; its logs end so:" >&2
    tail -n 12 "$folder"/*.out >&2
    exit 1
fi

"$@" <&0 & # not in the foreground, where the shell would hear no signal until it ends
command=$!
status=0
wait "$command" || status=$?
command=
exit "$status"
