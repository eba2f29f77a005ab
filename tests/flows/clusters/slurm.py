"""A real Slurm on this machine: a controller and two nodes on the loopback interface.

Each node has two CPUs and declares one GPU that does not exist: jobs that request it are placed
accordingly and compute on the CPU. Jobs in the partition `high` preempt those in `low`, which get a
grace time of ten seconds. A requeued job waits until its credentials expire: after five seconds
here, not after two minutes.

On Debian: apt-get install --no-install-recommends slurm-wlm munge
"""

import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.servers import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES = ("node1", "node2")
SECONDS = 60  # time for all daemons to start on a busy machine

_CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=10 Default=YES
PartitionName=high Nodes=ALL PriorityTier=9
"""
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4096 "
    "Gres=gpu:1\n"
)
_GPU = "NodeName={name} Name=gpu File=/dev/null\n"


class Slurm:
    """A cluster whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons, and wait until the nodes are idle."""
        host = socket.gethostname().partition(".")[0]
        folder = self.folder
        for name in ("state", *NODES):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        text = _CONFIGURATION.lstrip().format(host=host, port=free_port(), folder=folder)
        text += "".join(_NODE.format(name=name, host=host, port=free_port()) for name in NODES)
        (folder / "slurm.conf").write_text(text)
        gpus = "".join(_GPU.format(name=name) for name in NODES)
        (folder / "gres.conf").write_text(f"AutoDetect=off\n{gpus}")
        self._start_munge()
        self._spawn("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            self._spawn("slurmd", "-D", "-N", name, "-f", str(folder / "slurm.conf"))
        self.wait_for(lambda: self.run("sinfo", "-h", "-o", "%D %t", "-p", "low") == "2 idle")

    def stop(self) -> None:
        """Cancel all jobs and stop all daemons."""
        subprocess.run(["scancel", "--partition=low"], env=self._environment, timeout=120)
        self.wait_for(lambda: not self.run("squeue", "-h"), seconds=120)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            daemon.wait(timeout=120)

    def run(self, *command: str) -> str:
        """Run a command of Slurm; return its output, empty if it fails."""
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=120
        )
        return done.stdout.strip()

    def job(self, number: int) -> dict[str, str]:
        """Return the fields of a job: JobState, Restarts, ExitCode, …"""
        fields = self.run("scontrol", "--oneliner", "show", "job", str(number))
        return dict(part.split("=", 1) for part in fields.split() if "=" in part)

    def wait_for(self, condition: Any, seconds: float = SECONDS) -> None:
        """Wait for a condition; raise TimeoutError with the daemons' output if it stays false."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                output = "".join(log.read_text()[-1500:] for log in self.folder.glob("*.out"))
                raise TimeoutError(f"not within {seconds} s: {output}")
            time.sleep(0.2)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        socket_path = self.folder / "munge"
        self._spawn(
            "munged", "--foreground", "--force", "--num-threads=2",
            f"--socket={socket_path}", f"--key-file={key}", f"--pid-file={self.folder}/munge.pid",
            f"--seed-file={self.folder}/munge.seed",
        )  # fmt: skip
        self.wait_for(socket_path.exists)

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}{len(self._daemons)}.out").open("w") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )
