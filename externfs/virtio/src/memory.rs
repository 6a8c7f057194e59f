//! [`Memory`]: a guest's RAM, mapped here, and the two address spaces that it
//! is known by.
//!
//! Descriptors hold guest physical addresses. The addresses of the rings come
//! from the frontend in its own virtual addresses; with User Mode Linux the
//! two are the same, with QEMU they differ.

use crate::backing;
use crate::fence::Guard;
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Most regions of one guest.
pub(crate) const REGIONS_MAX: usize = 32;

/// Where a region is, in the frontend's words. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegionPlace {
    /// Guest physical address.
    pub(crate) guest_address: u64,
    /// Length.
    pub(crate) size: u64,
    /// Address in the frontend's process.
    pub(crate) user_address: u64,
    /// Where it begins in the file that came along.
    pub(crate) file_offset: u64,
}

/// A mapped region. The guard goes before the mapping that it watches.
struct Region {
    place: RegionPlace,
    guard: Guard,
    mapping: Arc<MmapRegion>,
}

impl Region {
    fn map(place: RegionPlace, fd: OwnedFd) -> Result<Region, String> {
        let RegionPlace { guest_address, size, user_address, file_offset } = place;
        let fits = |start: u64| start.checked_add(size).is_some();
        if size == 0 || !fits(guest_address) || !fits(user_address) || !fits(file_offset) {
            return Err(format!("memory region of {size:#x} bytes at {guest_address:#x} is empty or wraps around"));
        }
        backing::check(&fd, file_offset, size)?;
        let length = usize::try_from(size).map_err(|_| "memory region: too large".to_string())?;
        let mapping = MmapRegionBuilder::<()>::new(length)
            .with_file_offset(FileOffset::new(File::from(fd), file_offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .build()
            .map_err(|error| format!("memory region of {size:#x} bytes: {error}"))?;
        Ok(Region { place, guard: Guard::new(mapping.as_ptr(), length), mapping: Arc::new(mapping) })
    }
}

/// All regions of a guest. Immutable; a change makes another one that shares
/// what stays, and the old one goes with the last request that uses it.
pub(crate) struct Memory {
    /// Before `regions`, so that it drops first and no mapping outlives its guard.
    guest: GuestMemoryMmap,
    regions: Vec<Arc<Region>>,
}

impl Memory {
    /// Maps a whole table.
    pub(crate) fn map(table: Vec<(RegionPlace, OwnedFd)>) -> Result<Memory, String> {
        let regions: Result<_, _> = table.into_iter().map(|(place, fd)| Region::map(place, fd).map(Arc::new)).collect();
        Memory::build(regions?)
    }

    /// As `old`, with one more region.
    pub(crate) fn with(old: Option<&Memory>, place: RegionPlace, fd: OwnedFd) -> Result<Memory, String> {
        let mut regions = old.map(|old| old.regions.clone()).unwrap_or_default();
        regions.push(Arc::new(Region::map(place, fd)?));
        Memory::build(regions)
    }

    /// As this one, without the region at `place` (its file offset does not
    /// count); None when no region is left.
    pub(crate) fn without(&self, place: RegionPlace) -> Result<Option<Memory>, String> {
        let place = |file_offset| RegionPlace { file_offset, ..place };
        let is_it = |region: &Arc<Region>| region.place == place(region.place.file_offset);
        let mut regions = self.regions.clone();
        regions.retain(|region| !is_it(region));
        match regions.len() {
            left if left == self.regions.len() => Err(format!("there is no memory region at {:#x} to remove", place(0).guest_address)),
            0 => Ok(None),
            _ => Memory::build(regions).map(Some),
        }
    }

    fn build(mut regions: Vec<Arc<Region>>) -> Result<Memory, String> {
        if regions.len() > REGIONS_MAX {
            return Err(format!("more than {REGIONS_MAX} memory regions"));
        }
        regions.sort_by_key(|region| region.place.guest_address);
        let mapped: Option<Vec<_>> = regions
            .iter()
            .map(|region| {
                let start = GuestAddress(region.place.guest_address);
                GuestRegionMmap::with_arc(Arc::clone(&region.mapping), start)
            })
            .collect();
        let mapped = mapped.ok_or("a memory region wraps around")?;
        let guest = GuestMemoryMmap::from_regions(mapped).map_err(|error| format!("memory table: {error}"))?;
        Ok(Memory { guest, regions })
    }

    /// By guest physical address.
    pub(crate) fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// The guest physical address of an address in the frontend's process.
    pub(crate) fn guest_address(&self, user_address: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|region| {
            let inside = user_address.checked_sub(region.place.user_address)?;
            (inside < region.place.size).then(|| GuestAddress(region.place.guest_address + inside))
        })
    }

    /// Whether the frontend took some of it away (truncated its file). What is
    /// read from then on is zero, and nothing can be trusted.
    pub(crate) fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.guard.is_lost())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions.iter().map(|region| region.place)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::Bytes;

    fn memfd(size: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn place(guest_address: u64, size: u64, user_address: u64) -> RegionPlace {
        RegionPlace { guest_address, size, user_address, file_offset: 0 }
    }

    #[test]
    fn both_address_spaces_lead_to_the_same_bytes() {
        let table = vec![(place(0x10_0000, 0x2000, 0x7000_0000), memfd(0x2000)), (place(0, 0x1000, 0x6000_0000), memfd(0x1000))];
        let memory = Memory::map(table).unwrap();
        assert_eq!(memory.guest_address(0x7000_1ff8), Some(GuestAddress(0x10_1ff8)));
        assert_eq!(memory.guest_address(0x7000_2000), None);
        assert_eq!(memory.guest_address(0x6000_0000), Some(GuestAddress(0)));
        memory.guest().write_obj(7_u64, GuestAddress(0x10_1ff8)).unwrap();
        assert!(memory.guest().write_obj(7_u64, GuestAddress(0x1000)).is_err());
    }

    #[test]
    fn impossible_regions_are_refused() {
        let cases = [
            place(0, 0, 0),
            place(u64::MAX, 0x1000, 0),
            place(0, 0x1000, u64::MAX - 5),
            RegionPlace { file_offset: u64::MAX, ..place(0, 0x1000, 0) },
            RegionPlace { file_offset: 0x1000, ..place(0, 0x1000, 0) },
            RegionPlace { file_offset: 12, ..place(0, 0x800, 0) },
            place(0, 0x2000, 0),
        ];
        for case in cases {
            assert!(Memory::map(vec![(case, memfd(0x1000))]).is_err(), "{case:?}");
        }
        let overlap = vec![(place(0, 0x1000, 0), memfd(0x1000)), (place(0x800, 0x1000, 0x1000), memfd(0x1000))];
        assert!(Memory::map(overlap).is_err());
        assert!(Memory::map(Vec::new()).is_err());
        let null = File::open("/dev/zero").unwrap().into();
        assert!(Memory::map(vec![(place(0, 0x1000, 0), null)]).is_err());
    }

    #[test]
    fn regions_come_and_go() {
        let one = Memory::with(None, place(0, 0x1000, 0x1000), memfd(0x1000)).unwrap();
        let two = Memory::with(Some(&one), place(0x1000, 0x1000, 0x8000), memfd(0x1000)).unwrap();
        one.guest().write_obj(5_u32, GuestAddress(16)).unwrap();
        assert_eq!(two.guest().read_obj::<u32>(GuestAddress(16)).unwrap(), 5);
        assert!(two.without(place(0x1000, 0x800, 0x8000)).is_err());
        let back = two.without(RegionPlace { file_offset: 99, ..place(0, 0x1000, 0x1000) }).unwrap().unwrap();
        assert!(back.guest().read_obj::<u32>(GuestAddress(16)).is_err());
        assert!(back.without(place(0x1000, 0x1000, 0x8000)).unwrap().is_none());
    }

    /// A file of one huge page that is not there: nothing is reserved.
    fn huge() -> Option<OwnedFd> {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
        match fd.and_then(|fd| ftruncate(&fd, HUGE).map(|()| fd)) {
            Ok(fd) => Some(fd),
            Err(error) => {
                eprintln!("SKIPPED: no huge pages here: {error}");
                None
            }
        }
    }

    const HUGE: u64 = 2 << 20;

    #[test]
    fn a_part_of_a_huge_page_is_refused() {
        fence::install().unwrap();
        let Some(fd) = huge() else { return };
        ftruncate(&fd, 2 * HUGE).unwrap();
        for (file_offset, size) in [(0, 0x1_0000), (0, HUGE + 0x1000), (0x1000, HUGE), (HUGE, 0x1000)] {
            let place = RegionPlace { file_offset, ..place(0, size, 0) };
            let Ok(memory) = Memory::map(vec![(place, fd.try_clone().unwrap())]) else { continue };
            // What is not refused has to survive this.
            let _ = memory.guest().write_obj(1_u64, GuestAddress(0));
            panic!("{place:?} is accepted");
        }
    }

    #[test]
    fn huge_pages_that_are_not_there_do_not_take_us_along() {
        fence::install().unwrap();
        let Some(fd) = huge() else { return };
        let memory = Memory::map(vec![(place(0, HUGE, 0), fd)]).unwrap();
        memory.guest().write_obj(u64::MAX, GuestAddress(HUGE - 8)).unwrap();
        let there = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap().trim() != "0";
        assert!(memory.is_lost() || there);
    }

    #[test]
    fn memory_that_is_taken_away_does_not_take_us_along() {
        fence::install().unwrap();
        let fd = memfd(0x4000);
        let ours = fd.try_clone().unwrap();
        let memory = Memory::map(vec![(place(0, 0x4000, 0), fd)]).unwrap();
        let other = Memory::map(vec![(place(0, 0x1000, 0), memfd(0x1000))]).unwrap();
        memory.guest().write_obj(u64::MAX, GuestAddress(0x3000)).unwrap();
        ftruncate(&ours, 0x1000).unwrap();
        assert!(!memory.is_lost());
        assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(0x3000)).unwrap(), 0);
        assert!(memory.is_lost());
        assert!(!other.is_lost());
        memory.guest().write_obj(1_u64, GuestAddress(0x2000)).unwrap();
        drop(memory);
        let fresh = Memory::map(vec![(place(0, 0x1000, 0), memfd(0x1000))]).unwrap();
        assert!(!fresh.is_lost(), "a slot is reused without its past");
    }
}
