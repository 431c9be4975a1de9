//! What root of a lender's host can do to a lent partition behind the agent's back.

/// What root does, how it shows while it lasts, and as what the agent's guard tells it.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// As receipts name it.
    pub watched: &'static str,
    act: &'static str,
    /// Succeeds while the change lasts.
    shows: &'static str,
}

/// `$machine` is the VMM's process, `$vcpu` the thread of its vCPU, `$group` its control group, `$disk` the partition's disk.
/// To place the vCPU's thread elsewhere with sched_setaffinity(2) the kernel refuses already: its group has no other CPU.
pub const ATTACKS: [Attack; 9] = [
    Attack {
        watched: "affinity",
        act: "echo $vcpu >$group/cgroup.threads",
        shows: "grep -q '^Cpus_allowed_list:.0$' /proc/$vcpu/status",
    },
    Attack { watched: "nice value", act: "renice -n 19 -p $vcpu", shows: "[ $(field 19 $vcpu) = 19 ]" },
    Attack {
        watched: "scheduling policy",
        act: "/usr/bin/chrt --idle --pid 0 $vcpu",
        shows: "[ $(field 41 $vcpu) = 5 ]",
    },
    Attack {
        watched: "control group",
        act: "echo '20000 100000' >/sys/fs/cgroup/sublet/cpu.max",
        shows: "grep -q ^20000 /sys/fs/cgroup/sublet/cpu.max",
    },
    Attack { watched: "disk size", act: "truncate -s 4096 $disk", shows: "[ $(stat -c %s $disk) = 4096 ]" },
    Attack { watched: "process state", act: "kill -STOP $machine", shows: "[ $(field 3 $machine) = T ]" },
    Attack {
        watched: "control group",
        act: "echo 1 >$group/cgroup.freeze",
        shows: "grep -q 1 $group/cgroup.freeze",
    },
    Attack {
        watched: "control group",
        act: "echo member >$group/vcpus/cpuset.cpus.partition",
        shows: "grep -q member $group/vcpus/cpuset.cpus.partition",
    },
    Attack {
        watched: "CPU",
        act: "echo 0 >/sys/devices/system/cpu/cpu1/online",
        shows: "grep -q 0 /sys/devices/system/cpu/cpu1/online",
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
         field() {{ sed 's/.*) //' /proc/$2/stat | cut -d' ' -f$(($1 - 2)); }}
         now() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}
        "
    )
}

impl Attack {
    /// Script that does it, and succeeds where it still lasts a second later.
    pub fn unanswered(&self, partition: &str) -> String {
        format!("{}\n{}; sleep 1; {}", names(partition), self.act, self.shows)
    }

    /// Script that waits until it is put back.
    pub fn until_put_back(&self, partition: &str) -> String {
        format!("{}\nwhile {}; do usleep 10000; done", names(partition), self.shows)
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
             echo $(($(now) - begun))",
            names(partition),
            patience = patience_s * 100,
        )
    }
}
