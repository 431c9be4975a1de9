# From where a VMM leaves off to Rust: 64-bit mode, the first 512 GiB mapped to themselves, a stack.
#
# There are two ways in. By PVH (Xen, docs/misc/pvh.pandoc): 32-bit protected mode with flat segments, paging and
# interrupts off, the physical address of the start information in ebx. By Linux's 64-bit boot protocol
# (Documentation/arch/x86/boot.rst), as an ELF kernel: 64-bit mode, all that is needed mapped to itself, the address of
# the zero page in rsi. Nothing else is certain, the GDT and the stack least of all.

.set PAGE_BYTES, 4096
.set PRESENT_WRITABLE, 0x3
.set LARGE_PAGE, 0x80
.set LARGE_PAGE_BYTES, 0x200000
.set DIRECTORIES, 4                     # of 1 GiB each
.set HUGE_PAGE_BYTES, 0x40000000
.set ENTRIES, 512
.set STACK_BYTES, 0x40000
.set CR0_PROTECTED, 1 << 0
.set CR0_MONITOR_COPROCESSOR, 1 << 1
.set CR0_EMULATION, 1 << 2
.set CR0_PAGING, 1 << 31
.set CR4_PHYSICAL_ADDRESS_EXTENSION, 1 << 5
.set CR4_SSE, 1 << 9 | 1 << 10          # FXSAVE and SIMD exceptions: compiled code uses SSE registers
.set MSR_EFER, 0xc0000080
.set EFER_LONG_MODE, 1 << 8
# As Linux wants them when it is started: __BOOT_CS and __BOOT_DS.
.set CODE_SEGMENT, 0x10
.set DATA_SEGMENT, 0x18
.set STARTED_BY_PVH, 0
.set STARTED_AS_LINUX, 1

# The note by which a VMM recognises a PVH program (XEN_ELFNOTE_PHYS32_ENTRY).
.section .note.pvh, "a", @note
    .balign 4
    .long 4                             # of the name
    .long 8                             # of the entry's address
    .long 18
    .asciz "Xen"
    .quad pvh_start

.section .text.entry, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    movl    $top_table, %eax
    movl    %eax, %cr3
    movl    %cr4, %eax
    orl     $CR4_PHYSICAL_ADDRESS_EXTENSION, %eax
    movl    %eax, %cr4
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LONG_MODE, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $CR0_PAGING | CR0_PROTECTED, %eax
    movl    %eax, %cr0
    lgdt    gdt_pointer
    movl    %ebx, %esi                  # the second argument; its upper half becomes 0
    movl    $STARTED_BY_PVH, %edi
    ljmp    $CODE_SEGMENT, $long_mode

.code64
.global linux_start
linux_start:
    cli
    cld
    movl    $stack_top, %esp
    movl    $top_table, %eax
    movq    %rax, %cr3
    lgdt    gdt_pointer
    movl    $STARTED_AS_LINUX, %edi
    pushq   $CODE_SEGMENT
    pushq   $long_mode
    lretq

long_mode:
    movl    $DATA_SEGMENT, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    $stack_top, %esp
    movq    %cr0, %rax
    andl    $~CR0_EMULATION, %eax
    orl     $CR0_MONITOR_COPROCESSOR, %eax
    movq    %rax, %cr0
    movq    %cr4, %rax
    orl     $CR4_SSE, %eax
    movq    %rax, %cr4
    call    firmware_main
    ud2

# Leaves for a kernel: its entry in rdi, its zero page in rsi. Segments, page tables and interrupts are as it wants them.
.global enter_kernel
enter_kernel:
    cli
    jmp     *%rdi

.section .rodata.entry, "a"
    .balign 8
gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff            # code, 64-bit
    .quad 0x00cf93000000ffff            # data
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt

# One page of the top level, one of 1 GiB entries, four of 2 MiB entries. The CPU marks in them what it has used. What is
# beyond 4 GiB is pages of 1 GiB, which nobody touches on a CPU that does not know them.
.section .data.entry, "aw"
    .balign PAGE_BYTES
top_table:
    .quad pointer_table + PRESENT_WRITABLE
    .skip PAGE_BYTES - 8
pointer_table:
    .set directory, 0
    .rept DIRECTORIES
    .quad directories + directory * PAGE_BYTES + PRESENT_WRITABLE
    .set directory, directory + 1
    .endr
    .rept ENTRIES - DIRECTORIES
    .quad directory * HUGE_PAGE_BYTES + PRESENT_WRITABLE + LARGE_PAGE
    .set directory, directory + 1
    .endr
directories:
    .set page, 0
    .rept DIRECTORIES * PAGE_BYTES / 8
    .quad page * LARGE_PAGE_BYTES + PRESENT_WRITABLE + LARGE_PAGE
    .set page, page + 1
    .endr

.section .bss.entry, "aw", @nobits
    .balign PAGE_BYTES
    .skip STACK_BYTES
stack_top:
