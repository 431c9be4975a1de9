//! Finds and starts the operating system on a partition's disk.
