//! What the partition table keeps of a partition's VMM and of the guest in it, so that a restarted agent finds both
//! again.

use serde::{Deserialize, Serialize};

use crate::{
    agent::{freeze::guard::Baseline, guest::process::ProcessId},
    api::agent::{GuestEnd, GuestHung},
    domain::{receipt::segment::Cleaned, secret::Secret},
};

/// The VMM of a partition, and what became of the guest before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// User id of the partition's VMMs, no other partition's as long as this one is there; none: not given yet.
    #[serde(default)]
    pub user: Option<u32>,
    /// The VMM that was started last, unless it was ended since.
    pub built: Option<Built>,
    /// How this lease's last guest ended; none while one runs.
    pub last: Option<LastGuest>,
    /// When the open lease ends.
    #[serde(default)]
    pub deadline: Option<Deadline>,
    /// How the partition was cleaned after its latest lease.
    #[serde(default)]
    pub cleaned: Option<Cleaned>,
}

/// A moment on CLOCK_BOOTTIME, which counts anew at each start of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub host_boot: String,
    pub boottime_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The guest's vsock context id. No two VMMs ever get the same, so it also tells their files apart.
    pub cid: u32,
    /// Boot of the host under which the VMM was started; under another it is gone.
    pub host_boot: String,
    /// The VMM's process; none: it was not seen prepared.
    pub process: Option<ProcessId>,
    /// How it was found when it had been prepared.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// What runs in it.
    pub boot: Option<Boot>,
}

/// One boot of a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    pub image: String,
    /// What its job runner proves itself with; 32 hexadecimal digits.
    pub nonce: Secret,
    /// Its job runner has called.
    pub greeted: bool,
    /// How often the image was booted until its job runner called, this time included.
    #[serde(default = "first")]
    pub boots: u32,
    /// It is not heard.
    #[serde(default)]
    pub hung: Option<GuestHung>,
}

fn first() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastGuest {
    pub end: GuestEnd,
    /// Tells its console from that of the VMM that waits now.
    pub cid: u32,
}

impl MachineRecord {
    pub fn boot(&self) -> Option<&Boot> {
        self.built.as_ref()?.boot.as_ref()
    }

    /// Whose console there is to read: that of the guest that runs, else of the last one.
    pub fn console_of(&self) -> Option<u32> {
        let running = self.built.as_ref().filter(|built| built.boot.is_some()).map(|built| built.cid);
        running.or(self.last.as_ref().map(|last| last.cid))
    }
}
