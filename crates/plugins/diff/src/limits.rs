//! Bounds on what a layer may ask for. A layer is written by strangers; each number here is what
//! stands between one of its headers and our memory or disk.

/// Bounds on one apply. Exceeding one is `InvalidArgument` that names it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most entries. Each costs about 100 bytes of memory until the apply ends.
    pub entries_max: u64,
    /// Most bytes of an entry's name or link target; the kernel takes no longer paths (`PATH_MAX`
    /// with its NUL). A name of 4095 bytes has at most 2048 parents.
    pub path_bytes_max: usize,
    /// Most bytes that files may take together, holes not counted; `None` leaves it to the disk,
    /// as containerd does. This is the bound on decompression bombs.
    pub bytes_max: Option<u64>,
    /// Largest file, holes included: a sparse file of any size costs an archive a few bytes.
    pub file_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 8_000_000,
            path_bytes_max: 4095,
            bytes_max: None,
            file_bytes_max: 16 << 40,
        }
    }
}
