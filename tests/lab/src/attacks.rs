//! What root of a lender's host can do to a lent partition behind the agent's back.

/// What root does, how it shows while it lasts, what it does harm to, and as what the agent's guard tells it.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// As receipts name it.
    pub watched: &'static str,
    act: &'static str,
    /// Succeeds while the change lasts.
    shows: &'static str,
    pub harm: Harm,
}

/// What a borrower has less of while an attack lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Time on its CPU.
    Time,
    /// Space on its disk.
    Space,
}

/// `$machine` is the VMM's process, `$vcpu` the thread of its vCPU, `$group` its control group, `$disk` the partition's disk;
/// `join` has a process that never rests join the vCPU on its CPU.
/// To place the vCPU's thread elsewhere with sched_setaffinity(2) the kernel refuses already: its group has no other CPU.
/// How a thread is scheduled does harm only beside others, so whoever changes it brings one in as well.
pub const ATTACKS: [Attack; 10] = [
    Attack {
        watched: "affinity",
        act: "echo $vcpu >$group/cgroup.threads",
        shows: "grep -q '^Cpus_allowed_list:.0$' /proc/$vcpu/status",
        harm: Harm::Time,
    },
    Attack { watched: "company", act: "join", shows: "is_joined", harm: Harm::Time },
    Attack {
        watched: "nice value",
        act: "renice -n 19 -p $vcpu; join",
        shows: "[ $(field 19 $vcpu) = 19 ]",
        harm: Harm::Time,
    },
    Attack {
        watched: "scheduling policy",
        act: "/usr/bin/chrt --idle --pid 0 $vcpu; join",
        shows: "[ $(field 41 $vcpu) = 5 ]",
        harm: Harm::Time,
    },
    Attack {
        watched: "control group",
        act: "echo '20000 100000' >/sys/fs/cgroup/sublet/cpu.max",
        shows: "grep -q ^20000 /sys/fs/cgroup/sublet/cpu.max",
        harm: Harm::Time,
    },
    Attack {
        watched: "disk size",
        act: "truncate -s 4096 $disk",
        shows: "[ $(stat -c %s $disk) = 4096 ]",
        harm: Harm::Space,
    },
    Attack {
        watched: "process state",
        act: "kill -STOP $machine",
        shows: "[ $(field 3 $machine) = T ]",
        harm: Harm::Time,
    },
    Attack {
        watched: "control group",
        act: "echo 1 >$group/cgroup.freeze",
        shows: "grep -q 1 $group/cgroup.freeze",
        harm: Harm::Time,
    },
    Attack {
        watched: "control group",
        act: "echo member >$group/vcpus/cpuset.cpus.partition",
        shows: "grep -q member $group/vcpus/cpuset.cpus.partition",
        harm: Harm::Time,
    },
    Attack {
        watched: "CPU",
        act: "echo 0 >/sys/devices/system/cpu/cpu1/online",
        shows: "grep -q 0 /sys/devices/system/cpu/cpu1/online",
        harm: Harm::Time,
    },
];

/// The names that attacks use, for a shell in the host. Fields of `stat` are counted from behind the thread's name
/// (proc_pid_stat(5)).
pub fn names(partition: &str) -> String {
    format!(
        "disk=/var/lib/sublet/partitions/{partition}/disk; group=/sys/fs/cgroup/sublet/{partition}
         for machine in $(cat $group/cgroup.procs); do
             vcpu=$(grep -l '^vcpu0$' /proc/$machine/task/*/comm | cut -d/ -f5)
             [ -z \"$vcpu\" ] || break
         done
         joined=/run/joined
         field() {{ sed 's/.*) //' /proc/$2/stat | cut -d' ' -f$(($1 - 2)); }}
         now() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}
         join() {{
             setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &
             echo $! >$joined; echo $! >$group/cgroup.procs; echo $! >$group/vcpus/cgroup.threads
         }}
         is_joined() {{ grep -q ^$(cat $joined)$ $group/cgroup.procs; }}
         part() {{ [ ! -e $joined ] || {{ kill -9 $(cat $joined); rm $joined; }}; }}
        "
    )
}

impl Attack {
    /// Script that does it, and succeeds where it still lasts a second later. It says last how much of the time the vCPU ran
    /// in another second, of a thousand, by the host's own count.
    pub fn unanswered(&self, partition: &str) -> String {
        let Self { act, shows, .. } = self;
        format!("{}\n{act}; sleep 1; {shows}\n{RAN}", names(partition))
    }

    /// Script that waits until it is put back.
    pub fn until_put_back(&self, partition: &str) -> String {
        format!("{}\nwhile {}; do usleep 10000; done; part", names(partition), self.shows)
    }

    /// Script that does it, waits until it is put back, for `patience_s` at most, and says last how many hundredths of a
    /// second that took.
    pub fn timed(&self, partition: &str, patience_s: u64) -> String {
        let Self { act, shows, .. } = self;
        format!(
            "{}
             {act}
             begun=$(now)
             while {shows}; do
                 usleep 10000
                 [ $(now) -lt $((begun + {patience})) ]
             done
             took=$(($(now) - begun))
             part
             echo $took",
            names(partition),
            patience = patience_s * 100,
        )
    }
}

/// Says how much of the time the vCPU runs, of a thousand. Whoever looks is not kept waiting by others (sched(7), autogroups), and
/// looks at both clocks at once.
const RAN: &str = "
    echo -20 >/proc/self/autogroup
    look() { read -r ran _ </proc/$machine/task/$vcpu/schedstat; read -r up _ </proc/uptime; up=${up%.*}${up#*.}; }
    look; from=$ran; begun=$up; sleep 2; look
    echo $(((ran - from) / 10000 / (up - begun)))
";

/// Script that says the same where nobody attacks.
pub fn undisturbed(partition: &str) -> String {
    format!("{}\n{RAN}", names(partition))
}
