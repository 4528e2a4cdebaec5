//! Host: a kernel ELF becomes a UEFI disk image.
