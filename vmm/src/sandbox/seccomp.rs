//! Lists of system calls as the kernel enforces them (seccomp(2)): whatever else a thread calls ends the whole process
//! at once, for a machine that has lost one thread is none.

use std::{collections::BTreeMap, sync::Arc};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum FilterError {
    #[error("a list of system calls cannot be put into the kernel's language")]
    Compile(#[source] seccompiler::BackendError),
    #[error("the kernel does not take a list of system calls; it must be built with CONFIG_SECCOMP_FILTER")]
    Install(#[source] seccompiler::Error),
}

/// A system call that a thread may make, and with which arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: i64,
    conditions: [Option<Condition>; 2],
}

/// What must hold of the low half of an argument, counted from 0.
#[derive(Debug, Clone, Copy)]
pub enum Condition {
    Is {
        argument: u8,
        value: u32,
    },
    /// None of these bits is set.
    Lacks {
        argument: u8,
        bits: u32,
    },
    /// All of these bits are set.
    Has {
        argument: u8,
        bits: u32,
    },
}

impl Call {
    /// With any arguments.
    pub const fn any(number: i64) -> Self {
        Self { number, conditions: [None, None] }
    }

    pub const fn with(number: i64, condition: Condition) -> Self {
        Self { number, conditions: [Some(condition), None] }
    }

    pub const fn with_both(number: i64, first: Condition, second: Condition) -> Self {
        Self { number, conditions: [Some(first), Some(second)] }
    }

    pub const fn ioctl(request: u32) -> Self {
        Self::with(libc::SYS_ioctl, Condition::Is { argument: 1, value: request })
    }

    /// None: there is no condition.
    fn rule(&self) -> Result<Option<SeccompRule>, seccompiler::BackendError> {
        let conditions = self.conditions.iter().flatten().map(Condition::compile);
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        if conditions.is_empty() { Ok(None) } else { SeccompRule::new(conditions).map(Some) }
    }
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (argument, compare, value) = match *self {
            Self::Is { argument, value } => (argument, SeccompCmpOp::Eq, value),
            Self::Lacks { argument, bits } => (argument, SeccompCmpOp::MaskedEq(bits.into()), 0),
            Self::Has { argument, bits } => (argument, SeccompCmpOp::MaskedEq(bits.into()), bits),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value.into())
    }
}

/// A list, compiled.
#[derive(Debug, Clone)]
pub struct Filter(Arc<BpfProgram>);

impl Filter {
    pub fn compile(parts: &[&[Call]]) -> Result<Self, FilterError> {
        Self::with_other_calls(parts, SeccompAction::KillProcess)
    }

    /// One that lets everything through, so that a test can look at the thread that has it.
    #[cfg(test)]
    pub fn with_other_calls_allowed() -> Self {
        // The kernel's language needs two different answers.
        let parts = [Call::any(libc::SYS_kexec_load)];
        Self::with_other_calls(&[&parts], SeccompAction::Log).unwrap()
    }

    fn with_other_calls(parts: &[&[Call]], others: SeccompAction) -> Result<Self, FilterError> {
        let rules = rules(parts).map_err(FilterError::Compile)?;
        let filter = SeccompFilter::new(rules, others, SeccompAction::Allow, TargetArch::x86_64);
        let program = filter.and_then(TryInto::try_into).map_err(FilterError::Compile)?;
        Ok(Self(Arc::new(program)))
    }

    /// From now on the calling thread keeps to the list.
    pub fn install(&self) -> Result<(), FilterError> {
        apply_filter(&self.0).map_err(FilterError::Install)
    }
}

/// For each call the conditions of which one must hold; an empty list of them stands for "always".
fn rules(parts: &[&[Call]]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in parts.iter().copied().flatten() {
        rules.entry(call.number).or_default().extend(call.rule()?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// What becomes of `act` on a thread with this list, where other calls fail with ENOTTY instead of ending the test.
    fn on_a_thread<T: Send>(parts: &[&[Call]], act: impl FnOnce() -> T + Send) -> T {
        let others = SeccompAction::Errno(libc::ENOTTY as u32);
        let filter = Filter::with_other_calls(parts, others).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                filter.install().unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }

    const THREADS: &[Call] = crate::sandbox::lists::EVERY_THREAD;

    #[test]
    fn what_is_not_in_the_list_is_not_called() {
        let uid = || rustix::process::setsid().unwrap_err();
        assert_eq!(on_a_thread(&[THREADS], uid), Errno::NOTTY);
    }

    #[test]
    fn a_request_to_a_device_is_let_through_by_its_number_alone() {
        let calls = [Call::ioctl(0x5401)];
        let ask = |request: u64| {
            // SAFETY: descriptor -1 is never open, so the kernel looks at no argument.
            unsafe { libc::ioctl(-1, request, 0) };
            std::io::Error::last_os_error().raw_os_error()
        };
        let told = on_a_thread(&[THREADS, &calls], || [ask(0x5401), ask(0x5402)]);
        assert_eq!(told, [Some(libc::EBADF), Some(libc::ENOTTY)]);
    }

    #[test]
    fn no_thread_gets_memory_that_can_be_executed() {
        let map = |protection: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping, at an address that the kernel chooses; nothing uses it.
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) != libc::MAP_FAILED }
        };
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        let told = on_a_thread(&[THREADS], || [map(read_write), map(libc::PROT_READ | libc::PROT_EXEC)]);
        assert_eq!(told, [true, false]);
    }
}
