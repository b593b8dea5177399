#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lxcfs_rs_fuzz::runtime(bytes));
