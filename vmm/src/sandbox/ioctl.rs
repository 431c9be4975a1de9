//! The device requests that lists of system calls name (linux/kvm.h, linux/vhost.h, linux/if_tun.h); the crates that make them keep
//! their numbers to themselves.

use kvm_bindings::{kvm_irq_routing, kvm_irqfd, kvm_regs, kvm_sregs};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

const KVM: u32 = 0xae;
const VHOST: u32 = 0xaf;
/// `struct vhost_memory` without its entries, `vhost_vring_state`, `vhost_vring_file`; a plain 64-bit number.
const EIGHT_BYTES: usize = 8;
/// `struct vhost_vring_addr`.
const VRING_ADDRESS_BYTES: usize = 40;

pub(super) const KVM_SET_GSI_ROUTING: u32 = request(_IOC_WRITE, KVM, 0x6a, size_of::<kvm_irq_routing>());
pub(super) const KVM_IRQFD: u32 = request(_IOC_WRITE, KVM, 0x76, size_of::<kvm_irqfd>());
pub(super) const KVM_RUN: u32 = request(_IOC_NONE, KVM, 0x80, 0);
pub(super) const KVM_SET_REGS: u32 = request(_IOC_WRITE, KVM, 0x82, size_of::<kvm_regs>());
pub(super) const KVM_GET_SREGS: u32 = request(_IOC_READ, KVM, 0x83, size_of::<kvm_sregs>());
pub(super) const KVM_SET_SREGS: u32 = request(_IOC_WRITE, KVM, 0x84, size_of::<kvm_sregs>());

pub(super) const VHOST_SET_FEATURES: u32 = request(_IOC_WRITE, VHOST, 0x00, EIGHT_BYTES);
pub(super) const VHOST_SET_MEM_TABLE: u32 = request(_IOC_WRITE, VHOST, 0x03, EIGHT_BYTES);
pub(super) const VHOST_SET_VRING_NUM: u32 = request(_IOC_WRITE, VHOST, 0x10, EIGHT_BYTES);
pub(super) const VHOST_SET_VRING_ADDR: u32 = request(_IOC_WRITE, VHOST, 0x11, VRING_ADDRESS_BYTES);
pub(super) const VHOST_SET_VRING_BASE: u32 = request(_IOC_WRITE, VHOST, 0x12, EIGHT_BYTES);
pub(super) const VHOST_SET_VRING_KICK: u32 = request(_IOC_WRITE, VHOST, 0x20, EIGHT_BYTES);
pub(super) const VHOST_SET_VRING_CALL: u32 = request(_IOC_WRITE, VHOST, 0x21, EIGHT_BYTES);
pub(super) const VHOST_NET_SET_BACKEND: u32 = request(_IOC_WRITE, VHOST, 0x30, EIGHT_BYTES);
pub(super) const VHOST_VSOCK_SET_RUNNING: u32 = request(_IOC_WRITE, VHOST, 0x61, size_of::<i32>());

pub(super) const TUN_SET_OFFLOAD: u32 = libc::TUNSETOFFLOAD as u32;

/// As the kernel looks at it: only the low half of the argument counts.
const fn request(direction: u32, kind: u32, number: u32, bytes: usize) -> u32 {
    ioctl_expr(direction, kind, number, bytes as u32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_c_gives_them() {
        assert_eq!([KVM_RUN, KVM_IRQFD, KVM_SET_GSI_ROUTING], [0xae80, 0x4020_ae76, 0x4008_ae6a]);
        assert_eq!([KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS], [0x4090_ae82, 0x8138_ae83, 0x4138_ae84]);
        assert_eq!([VHOST_SET_MEM_TABLE, VHOST_SET_VRING_ADDR], [0x4008_af03, 0x4028_af11]);
        assert_eq!([VHOST_SET_FEATURES, VHOST_VSOCK_SET_RUNNING], [0x4008_af00, 0x4004_af61]);
        assert_eq!([VHOST_NET_SET_BACKEND, TUN_SET_OFFLOAD], [0x4008_af30, 0x4004_54d0]);
    }
}
