"""The texts of the cluster's configuration files. Pure but for the host's name."""

from __future__ import annotations

import socket

from layout import CLUSTER, HOST, Layout

SLURM = {
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "SlurmUser": "slurm",
    "MpiDefault": "none",
    "MailProg": "/bin/true",
    "ReturnToService": "2",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    # With memory as a resource, a job that asks for none would otherwise take all of it.
    "DefMemPerCPU": "500",
    "SlurmdParameters": "config_overrides",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "1",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageEnforce": "associations,limits,qos",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "MaxArraySize": "1001",
    "MaxJobCount": "20000",
    # Quicker than a site, so that tests need not wait for minutes.
    "MinJobAge": "30",
    "KillWait": "3",
    "SlurmdTimeout": "10",
    "MessageTimeout": "5",
    "UnkillableStepTimeout": "20",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
}
NODE = "CPUs=16 Boards=1 SocketsPerBoard=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=8000"
PARTITIONS = """\
PartitionName=DEFAULT Nodes=ALL State=UP DefaultTime=1:00:00 MaxTime=1-00:00:00
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=short PriorityTier=10 PreemptMode=OFF DefaultTime=1 MaxTime=5
PartitionName=high PriorityTier=20 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE
"""


def slurm_conf(layout: Layout) -> str:
    """Of what is said twice, the last wins here, whatever Slurm would do."""
    lines = {**SLURM, **_of_this_cluster(layout), **_memory_plugins(layout), **layout.settings}
    node = f"NodeName={layout.node} NodeHostname={host_name()} NodeAddr={HOST} Port={layout.ports['slurmd']} {NODE}\n"
    return "".join(f"{name}={value}\n" for name, value in lines.items()) + node + PARTITIONS


def _of_this_cluster(layout: Layout) -> dict[str, str]:
    run = layout.dir / "run"
    return {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{host_name()}({HOST})",
        "SlurmctldPort": str(layout.ports["slurmctld"]),
        "SlurmdPort": str(layout.ports["slurmd"]),
        # Loopback only, else Slurm listens on every address.
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        # A requeued job waits for as long as its credential could live: 120 s unless said (slurm.conf(5), AuthInfo).
        "AuthInfo": f"socket={layout.munge_socket},cred_expire=5",
        "AccountingStorageHost": HOST,
        "AccountingStoragePort": str(layout.ports["slurmdbd"]),
        "AccountingStoragePass": str(layout.munge_socket),
        "StateSaveLocation": str(layout.dir / "state"),
        "SlurmdSpoolDir": str(layout.dir / "spool"),
        "SlurmctldPidFile": str(run / "of-slurmctld"),
        "SlurmdPidFile": str(run / "of-slurmd"),
    }


def _memory_plugins(layout: Layout) -> dict[str, str]:
    if layout.memory.startswith("cgroup"):
        return {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}
    return {"ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none"}


def cgroup_conf(layout: Layout, *, swap: bool) -> str:
    if not layout.memory.startswith("cgroup"):
        return "CgroupPlugin=cgroup/v1\n"
    lines = [
        f"CgroupPlugin={layout.memory}",
        "ConstrainRAMSpace=yes",
        f"ConstrainSwapSpace={'yes' if swap else 'no'}",
    ]
    if layout.memory == "cgroup/v2":
        lines += ["IgnoreSystemd=yes", "CgroupAutomount=yes"]
    return "".join(f"{line}\n" for line in lines)


def slurmdbd_conf(layout: Layout) -> str:
    """Without a password: MariaDB asks the kernel who is at its socket (plugin unix_socket)."""
    return f"""\
AuthType=auth/munge
AuthInfo={layout.munge_socket}
DbdHost={host_name()}
DbdAddr={HOST}
DbdPort={layout.ports["slurmdbd"]}
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
PidFile={layout.dir}/run/of-slurmdbd
"""


def sshd_config(layout: Layout) -> str:
    """StrictModes would refuse keys below /var/tmp and /tmp, which everybody may write to."""
    return f"""\
Port {layout.ports["sshd"]}
ListenAddress {HOST}
HostKey {layout.dir}/ssh/host_ed25519
AuthorizedKeysFile {layout.dir}/ssh/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
AllowUsers {layout.user}
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
AcceptEnv SLURM_CONF
Subsystem sftp internal-sftp
"""


def ssh_config(layout: Layout) -> str:
    """For people: `ssh -F DIR/ssh/config sandbox`."""
    return f"""\
Host {CLUSTER}
    HostName {HOST}
    Port {layout.ports["sshd"]}
    User {layout.user}
    IdentityFile {layout.key}
    IdentitiesOnly yes
    UserKnownHostsFile {layout.known_hosts}
    SetEnv SLURM_CONF={layout.slurm_conf}
"""


def host_name() -> str:
    return socket.gethostname().split(".")[0]
