//! What the prebuilt `alloc` names in order to unwind. Nothing unwinds here: a panic halts.

/// Never called: there is nothing to go on with.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::halt()
}

/// Never called; its address alone is asked for.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
