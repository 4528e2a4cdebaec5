//! Who a frame belongs to: every allocated frame has exactly one named owner, and reports add up.

macro_rules! owners {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What a frame is used for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Owner { $($(#[doc = $doc])+ $variant,)+ }

        impl Owner {
            /// All owners, in the order of reports.
            pub const ALL: &'static [Owner] = &[$(Owner::$variant,)+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Owner::$variant => $name,)+ }
            }
        }
    };
}

owners! {
    /// The allocator's own metadata, carved out of memory at boot.
    Meta = "meta",
    /// Anonymous memory of programs.
    Anon = "anon",
    /// Page tables of programs' address spaces, their roots included.
    PageTable = "page_table",
    /// The kernel's own page tables.
    KernelTables = "kernel_tables",
    /// Kernel stacks of threads and CPUs.
    KernelStack = "kernel_stack",
    /// The kernel heap.
    Heap = "heap",
    /// Everything else that the kernel keeps: per-CPU areas, buffers shared with devices.
    Kernel = "kernel",
    /// Frames that a test holds.
    Test = "test",
}

/// Number of owners.
pub const OWNERS: usize = Owner::ALL.len();
