//! [`IdMap`]: the only way from a guest's user and group ids to the host's and
//! back.

use externfs::{GuestGid, GuestUid};

/// A user id of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostUid(pub(crate) u32);

/// A group id of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostGid(pub(crate) u32);

/// Shown for an id of the host that no range covers: the kernel's
/// `overflowuid`, "nobody".
pub(crate) const OVERFLOW_ID: u32 = 65534;

/// `count` ids from `guest` on are `count` ids from `host` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) guest: u32,
    pub(crate) host: u32,
    pub(crate) count: u32,
}

impl Range {
    /// None if it is empty or runs into `u32::MAX`, which is no id but -1.
    pub(crate) fn new(guest: u32, host: u32, count: u32) -> Option<Range> {
        let fits = |first: u32| first.checked_add(count).is_some();
        (count > 0 && fits(guest) && fits(host)).then_some(Range { guest, host, count })
    }

    /// Whether an id of either side is in both, so that it had two meanings.
    pub(crate) fn overlaps(&self, other: &Range) -> bool {
        let meet = |a: u32, b: u32| a < b + other.count && b < a + self.count;
        meet(self.guest, other.guest) || meet(self.host, other.host)
    }
}

/// Ranges of one sort of id; none means that the two sides agree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranges(pub(crate) Vec<Range>);

impl Ranges {
    fn to_host(&self, guest: u32) -> Option<u32> {
        if self.0.is_empty() {
            // -1 means "no change" to chown(2) and cannot own anything.
            return (guest != u32::MAX).then_some(guest);
        }
        self.0.iter().find_map(|r| guest.checked_sub(r.guest).filter(|&n| n < r.count).map(|n| r.host + n))
    }

    fn to_guest(&self, host: u32) -> u32 {
        if self.0.is_empty() {
            return host;
        }
        let found = self.0.iter().find_map(|r| host.checked_sub(r.host).filter(|&n| n < r.count).map(|n| r.guest + n));
        found.unwrap_or(OVERFLOW_ID)
    }
}

/// How ids travel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct IdMap {
    pub(crate) uids: Ranges,
    pub(crate) gids: Ranges,
    /// Everybody acts as this one (`squash`); owners are shown as they are.
    pub(crate) squash: Option<(HostUid, HostGid)>,
}

impl IdMap {
    /// Whether ids look the same on both sides, ACL entries included.
    pub(crate) fn is_identity(&self) -> bool {
        self.uids.0.is_empty() && self.gids.0.is_empty()
    }

    /// None for an id that the host does not know.
    pub(crate) fn uid_to_host(&self, uid: GuestUid) -> Option<HostUid> {
        self.uids.to_host(uid.0).map(HostUid)
    }

    /// As [`IdMap::uid_to_host`].
    pub(crate) fn gid_to_host(&self, gid: GuestGid) -> Option<HostGid> {
        self.gids.to_host(gid.0).map(HostGid)
    }

    pub(crate) fn uid_to_guest(&self, uid: u32) -> GuestUid {
        GuestUid(self.uids.to_guest(uid))
    }

    pub(crate) fn gid_to_guest(&self, gid: u32) -> GuestGid {
        GuestGid(self.gids.to_guest(gid))
    }

    /// Who a caller is on the host.
    pub(crate) fn identity(&self, uid: GuestUid, gid: GuestGid) -> Option<(HostUid, HostGid)> {
        match self.squash {
            Some(identity) => Some(identity),
            None => Some((self.uid_to_host(uid)?, self.gid_to_host(gid)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        let ranges = Ranges(ranges.iter().map(|&(g, h, n)| Range::new(g, h, n).unwrap()).collect());
        IdMap { uids: ranges.clone(), gids: ranges, squash: None }
    }

    #[test]
    fn without_ranges_both_sides_agree() {
        let ids = IdMap::default();
        for id in [0, 1, 65534, u32::MAX - 1] {
            assert_eq!(ids.uid_to_host(GuestUid(id)), Some(HostUid(id)));
            assert_eq!(ids.uid_to_guest(id), GuestUid(id));
        }
        assert_eq!(ids.uid_to_host(GuestUid(u32::MAX)), None, "-1 owns nothing");
    }

    #[test]
    fn ranges_end_where_they_say() {
        let ids = map(&[(0, 100_000, 1000), (5000, 7, 1)]);
        for (guest, host) in [(0, 100_000), (999, 100_999), (5000, 7)] {
            assert_eq!(ids.gid_to_host(GuestGid(guest)), Some(HostGid(host)));
            assert_eq!(ids.gid_to_guest(host), GuestGid(guest));
        }
        for unmapped in [1000, 4999, 5001, u32::MAX] {
            assert_eq!(ids.gid_to_host(GuestGid(unmapped)), None);
        }
        for unmapped in [0, 6, 8, 99_999, 101_000] {
            assert_eq!(ids.gid_to_guest(unmapped), GuestGid(OVERFLOW_ID));
        }
    }

    #[test]
    fn impossible_ranges_do_not_exist() {
        assert_eq!(Range::new(0, 0, 0), None);
        assert_eq!(Range::new(1, 0, u32::MAX), None);
        assert!(Range::new(0, 0, u32::MAX).is_some());
        let (a, b) = (Range::new(0, 100, 10).unwrap(), Range::new(9, 200, 10).unwrap());
        assert!(a.overlaps(&b) && b.overlaps(&a), "guest 9 is in both");
        assert!(!a.overlaps(&Range::new(10, 110, 5).unwrap()));
        assert!(a.overlaps(&Range::new(50, 109, 5).unwrap()), "host 109 is in both");
    }

    #[test]
    fn squashed_callers_are_all_the_same() {
        let ids = IdMap { squash: Some((HostUid(7), HostGid(8))), ..IdMap::default() };
        assert_eq!(ids.identity(GuestUid(0), GuestGid(0)), Some((HostUid(7), HostGid(8))));
        assert_eq!(ids.uid_to_guest(1000), GuestUid(1000));
    }
}
