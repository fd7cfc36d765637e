"""A Slurm of one node on the loopback interface, of Debian's packages slurm-wlm and munge, in a folder of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")

CONFIGURATION = """\
ClusterName=omrlbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=3
MinJobAge=2
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, None if there can."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons are started as root only"


class SlurmCluster:
    """A context manager. `environment` is what commands need beside it to find this Slurm."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder, self.daemons = folder, []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        controller_port, node_port = free_ports(2)
        values = {"host": socket.gethostname().split(".")[0], "folder": folder, "cpus": cpus}
        values |= {"controller_port": controller_port, "node_port": node_port}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))

    def __enter__(self) -> "SlurmCluster":
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        try:
            self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
            self._wait(lambda: (self.folder / "munge.socket").exists(), "munged does not start")
            self._start("slurmctld", "-D", "-c")
            self._start("slurmd", "-D", "-c")
            self._wait(
                lambda: "idle" in self.command("sinfo", "--noheader", "--format=%t"), "the node does not come up"
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if len(self.daemons) == 3:  # all of them came up
            self.command("scancel", "--user", "root")
            self._wait(lambda: not self.command("squeue", "--noheader"), "jobs that a test left do not end")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(30)

    def command(self, *words: str) -> str:
        return subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True).stdout

    def _start(self, program: str, *arguments: str) -> None:
        path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
        with open(self.folder / f"{program}.out", "w") as out:
            command = [shutil.which(program, path=path), *arguments]
            daemon = subprocess.Popen(command, env=os.environ | self.environment, stdout=out, stderr=out)
        self.daemons.append(daemon)

    def _wait(self, condition, otherwise: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                said = "".join(path.read_text() for path in [*self.folder.glob("*.out"), *self.folder.glob("*.log")])
                raise TimeoutError(f"{otherwise}: {said}")
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
