# From where a VMM leaves off to Rust: 64-bit mode, the first 4 GiB mapped to themselves, a stack.
#
# On entry by PVH (Xen, docs/misc/pvh.pandoc): 32-bit protected mode with flat segments, paging and interrupts off,
# the physical address of the start information in ebx. Nothing else is certain, the GDT and the stack least of all.

.set PAGE_BYTES, 4096
.set PRESENT_WRITABLE, 0x3
.set LARGE_PAGE, 0x80
.set LARGE_PAGE_BYTES, 0x200000
.set DIRECTORIES, 4                     # of 1 GiB each
.set CR0_PROTECTED, 1 << 0
.set CR0_MONITOR_COPROCESSOR, 1 << 1
.set CR0_EMULATION, 1 << 2
.set CR0_PAGING, 1 << 31
.set CR4_PHYSICAL_ADDRESS_EXTENSION, 1 << 5
.set CR4_SSE, 1 << 9 | 1 << 10          # FXSAVE and SIMD exceptions: compiled code uses SSE registers
.set MSR_EFER, 0xc0000080
.set EFER_LONG_MODE, 1 << 8
.set CODE_SEGMENT, 8
.set DATA_SEGMENT, 16

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
    movl    $stack_top, %esp

    # One page of the top level, one of 1 GiB entries, four of 2 MiB entries. They lie in zeroed memory.
    movl    $pointer_table + PRESENT_WRITABLE, top_table
    movl    $directories + PRESENT_WRITABLE, %eax
    movl    $pointer_table, %edi
    movl    $DIRECTORIES, %ecx
1:  movl    %eax, (%edi)
    addl    $PAGE_BYTES, %eax
    addl    $8, %edi
    loop    1b

    movl    $PRESENT_WRITABLE + LARGE_PAGE, %eax
    movl    $directories, %edi
    movl    $DIRECTORIES * PAGE_BYTES / 8, %ecx
2:  movl    %eax, (%edi)
    addl    $LARGE_PAGE_BYTES, %eax
    addl    $8, %edi
    loop    2b

    movl    $top_table, %eax
    movl    %eax, %cr3
    movl    %cr4, %eax
    orl     $CR4_PHYSICAL_ADDRESS_EXTENSION | CR4_SSE, %eax
    movl    %eax, %cr4
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LONG_MODE, %eax
    wrmsr
    movl    %cr0, %eax
    andl    $~CR0_EMULATION, %eax
    orl     $CR0_PAGING | CR0_MONITOR_COPROCESSOR | CR0_PROTECTED, %eax
    movl    %eax, %cr0
    lgdt    gdt_pointer
    ljmp    $CODE_SEGMENT, $long_mode

.code64
long_mode:
    movl    $DATA_SEGMENT, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    %ebx, %edi                  # the first argument; its upper half becomes 0
    call    firmware_main
    ud2

.section .rodata.entry, "a"
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # code, 64-bit
    .quad 0x00cf93000000ffff            # data
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

.section .bss.entry, "aw", @nobits
    .balign PAGE_BYTES
top_table:
    .skip PAGE_BYTES
pointer_table:
    .skip PAGE_BYTES
directories:
    .skip DIRECTORIES * PAGE_BYTES
    .skip 16 * PAGE_BYTES
stack_top:
