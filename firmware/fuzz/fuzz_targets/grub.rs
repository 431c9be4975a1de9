#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sublet_firmware_fuzz::grub::run(input));
