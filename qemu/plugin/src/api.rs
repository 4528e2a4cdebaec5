//! QEMU's side: the part of its plugin interface that is used here, declared by hand.
//!
//! Version 1 of the interface, which QEMU 4.2 to 8.2 speak. The functions are looked up by name in the process that has
//! loaded us, and not linked: so a missing one is a message and not a refusal of the dynamic linker, and unit tests need
//! no QEMU. Source: `include/qemu/qemu-plugin.h` of QEMU 7.2.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The version of the interface that the declarations below are of.
pub(crate) const VERSION: c_int = 1;

/// Names this plugin to QEMU.
pub(crate) type PluginId = u64;

/// A block of instructions while it is translated. QEMU's own.
#[repr(C)]
pub(crate) struct Block {
    _opaque: [u8; 0],
}

/// One instruction of it. QEMU's own.
#[repr(C)]
pub(crate) struct Instruction {
    _opaque: [u8; 0],
}

/// Where an access went. QEMU's own.
#[repr(C)]
pub(crate) struct Place {
    _opaque: [u8; 0],
}

/// How an access was done, packed.
pub(crate) type MemInfo = u32;

/// `QEMU_PLUGIN_CB_NO_REGS`: the callback looks at no registers.
pub(crate) const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_W`: accesses that write.
pub(crate) const WRITES: c_int = 2;
/// `QEMU_PLUGIN_MEM_RW`: accesses of either kind.
pub(crate) const READS_AND_WRITES: c_int = 3;

/// `qemu_info_t`: what QEMU tells a plugin that it loads.
#[repr(C)]
pub struct Info {
    target_name: *const c_char,
    pub(crate) oldest_version: c_int,
    pub(crate) newest_version: c_int,
    system_emulation: bool,
    pub(crate) cpus_at_start: c_int,
    pub(crate) cpus_at_most: c_int,
}

pub(crate) type OnSimple = extern "C" fn(PluginId);
pub(crate) type OnExit = extern "C" fn(PluginId, *mut c_void);
pub(crate) type OnTranslation = extern "C" fn(PluginId, *mut Block);
pub(crate) type OnRun = extern "C" fn(c_uint, *mut c_void);
pub(crate) type OnAccess = extern "C" fn(c_uint, MemInfo, u64, *mut c_void);

unsafe extern "C" {
    /// Of the C library, which the standard library links.
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($field:ident = $name:literal: unsafe extern "C" fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// QEMU's functions.
        #[derive(Clone, Copy)]
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks all of them up.
            pub(crate) fn find() -> Result<Api, String> {
                Ok(Api {
                    $($field: {
                        let found = look_up($name)?;
                        // SAFETY: a function that QEMU exports under this name has this type, in the version of the
                        // interface that QEMU has agreed to (`qemu_plugin_version`).
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(found)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    reset = c"qemu_plugin_reset": unsafe extern "C" fn(PluginId, OnSimple);
    on_translation = c"qemu_plugin_register_vcpu_tb_trans_cb": unsafe extern "C" fn(PluginId, OnTranslation);
    on_exit = c"qemu_plugin_register_atexit_cb": unsafe extern "C" fn(PluginId, OnExit, *mut c_void);
    block_len = c"qemu_plugin_tb_n_insns": unsafe extern "C" fn(*const Block) -> usize;
    block_get = c"qemu_plugin_tb_get_insn": unsafe extern "C" fn(*const Block, usize) -> *mut Instruction;
    bytes = c"qemu_plugin_insn_data": unsafe extern "C" fn(*const Instruction) -> *const u8;
    size = c"qemu_plugin_insn_size": unsafe extern "C" fn(*const Instruction) -> usize;
    address = c"qemu_plugin_insn_vaddr": unsafe extern "C" fn(*const Instruction) -> u64;
    on_run = c"qemu_plugin_register_vcpu_insn_exec_cb":
        unsafe extern "C" fn(*mut Instruction, OnRun, c_int, *mut c_void);
    on_access = c"qemu_plugin_register_vcpu_mem_cb":
        unsafe extern "C" fn(*mut Instruction, OnAccess, c_int, c_int, *mut c_void);
    access_size_shift = c"qemu_plugin_mem_size_shift": unsafe extern "C" fn(MemInfo) -> c_uint;
    access_is_store = c"qemu_plugin_mem_is_store": unsafe extern "C" fn(MemInfo) -> bool;
    place = c"qemu_plugin_get_hwaddr": unsafe extern "C" fn(MemInfo, u64) -> *mut Place;
    place_is_device = c"qemu_plugin_hwaddr_is_io": unsafe extern "C" fn(*const Place) -> bool;
    place_address = c"qemu_plugin_hwaddr_phys_addr": unsafe extern "C" fn(*const Place) -> u64;
}

fn look_up(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a null handle asks the whole process; the name ends in a NUL byte.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    if found.is_null() { Err(format!("this QEMU has no {}", name.to_string_lossy())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_qemu_the_missing_function_is_named() {
        assert_eq!(Api::find().err().as_deref(), Some("this QEMU has no qemu_plugin_reset"));
    }
}
