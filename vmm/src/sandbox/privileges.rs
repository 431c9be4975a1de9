//! The user that a machine runs as, and no more rights than such a user has.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("cannot {step}; the VMM must be started as root")]
pub struct PrivilegeError {
    step: &'static str,
    source: Errno,
}

/// Becomes `user`, in the group of the same number and no other, without capabilities and without a way to any.
pub(super) fn give_up(user: u32) -> Result<(), PrivilegeError> {
    let failed = |step| move |source| PrivilegeError { step, source };
    empty_bounding_set().map_err(failed("give up capabilities for good"))?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[]).map_err(failed("leave all groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(failed("change to the group of its own"))?;
    set_thread_res_uid(uid, uid, uid).map_err(failed("change to the user of its own"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(failed("give up its capabilities"))?;
    set_no_new_privs(true).map_err(failed("forbid itself new privileges"))?;
    // Last, as changing the user sets it anew: nobody of the same user may look into it, and no core is dumped.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("keep others from looking into it"))
}

fn empty_bounding_set() -> Result<(), Errno> {
    // The kernel says where its capabilities end; it may have some that no header here knows.
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Err(Errno::INVAL) if number > 0 => break,
            other => other?,
        }
    }
    Ok(())
}
