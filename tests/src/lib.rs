//! Host: the harness that boots the kernel and judges what it does.
