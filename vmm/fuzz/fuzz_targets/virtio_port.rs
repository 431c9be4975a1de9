#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sublet_vmm_fuzz::virtio_port::run(input));
