//! What is known of the running kernel by its version alone.

/// Whether the kernel may be left to read without opening files.
///
/// Since Linux 6.9 (commit e26ee4efbc79, in October 2025 also taken into the stable
/// trees) a file that was not opened holds no reference to its inode while it is read
/// ahead. If the server runs into reclaim while it answers that READ, and reclaim
/// comes to that inode, both wait for each other for ever. 6.19 and 6.18.y hold the
/// inode again (commit bd5603eaae0a); of older trees the version does not tell what
/// distributions have taken.
pub(crate) fn may_not_open() -> bool {
    holds_what_it_reads(&rustix::system::uname().release().to_string_lossy())
}

fn holds_what_it_reads(release: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(number);
    let [major, minor, patch] = [(); 3].map(|()| numbers.next().unwrap_or(0));
    // In 6.18 since one of the first; some more for good measure.
    (major, minor) >= (6, 19) || (major, minor) == (6, 18) && patch >= 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_version() {
        for release in ["6.18.10", "6.18.44-fc-v657", "6.19.0-rc1", "7.0.1", "10.0"] {
            assert!(holds_what_it_reads(release), "{release}");
        }
        for release in ["6.18", "6.18.9-1", "6.12.90+deb13-amd64", "5.15.0", "6.9", "", "x.y", "99999999999999999999.1"] {
            assert!(!holds_what_it_reads(release), "{release}");
        }
    }
}
