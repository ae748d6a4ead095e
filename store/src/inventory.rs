//! Which groups of a track somebody has: a set of numbers kept as bitmaps in pages of 4096.
//!
//! Two hours of a track are 3600 groups, so one page of 512 bytes says it all, whatever is missing. That is small
//! enough to send whole, and no tree of hashes or set reconciliation is needed. What is missing is asked for as ranges,
//! and a caller says how many it wants: a peer that claims a far head cannot make us list a gap per group.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
};

use crate::id::SEQ_MAX;

/// Groups in one page.
pub const PAGE_LEN: u64 = 4096;

/// Most pages in a decoded inventory: four million groups, three months of one track.
pub const PAGE_COUNT_MAX: usize = 1024;

/// Why bytes are not an inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list of groups has {0}")]
pub struct Error(&'static str);

const WORDS: usize = (PAGE_LEN / 64) as usize;

/// 4096 groups in a row, one bit each. On disk: version, then 64 words, big-endian, the lowest bit of a word first.
#[derive(Clone, PartialEq, Eq)]
pub struct Page([u64; WORDS]);

impl Page {
    const VERSION: u8 = 1;

    /// The page of no groups.
    pub const EMPTY: Page = Page([0; WORDS]);

    /// Which page a group is in, and at which place.
    ///
    /// # Panics
    /// If `seq` is above [`SEQ_MAX`]: group headers are refused before.
    pub fn place(seq: u64) -> (u32, usize) {
        assert!(seq <= SEQ_MAX, "group numbers were checked when their header was read");
        ((seq / PAGE_LEN) as u32, (seq % PAGE_LEN) as usize)
    }

    /// Adds the group at a place; whether it was new.
    pub fn insert(&mut self, place: usize) -> bool {
        let (word, bit) = (&mut self.0[place / 64], 1 << (place % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes the group at a place out.
    pub fn remove(&mut self, place: usize) {
        self.0[place / 64] &= !(1 << (place % 64));
    }

    fn contains(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first place from `from` on that is (or is not) in the page.
    fn find(&self, from: usize, present: bool) -> Option<usize> {
        let mut place = from;
        while place < PAGE_LEN as usize {
            let word = if present { self.0[place / 64] } else { !self.0[place / 64] };
            let rest = word >> (place % 64);
            if rest != 0 {
                return Some(place + rest.trailing_zeros() as usize);
            }
            place = (place / 64 + 1) * 64;
        }
        None
    }

    /// The page as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        std::iter::once(Self::VERSION).chain(self.0.iter().flat_map(|word| word.to_be_bytes())).collect()
    }

    /// Reads a stored page.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&Self::VERSION, rest)) if rest.len() == 8 * WORDS => {
                let mut page = Page::EMPTY;
                for (word, bytes) in page.0.iter_mut().zip(rest.chunks_exact(8)) {
                    *word = u64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
                }
                Ok(page)
            }
            Some((&Self::VERSION, _)) => Err(Error("a page of a wrong length")),
            _ => Err(Error("a page of an unknown version")),
        }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} of {PAGE_LEN})", self.len())
    }
}

/// The groups of one track that somebody has.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Have {
    pages: BTreeMap<u32, Page>,
}

impl Have {
    const VERSION: u8 = 1;

    /// No groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// The inventory of stored pages.
    pub fn from_pages(pages: impl IntoIterator<Item = (u32, Page)>) -> Self {
        Have { pages: pages.into_iter().filter(|(_, page)| *page != Page::EMPTY).collect() }
    }

    /// Adds a group; whether it was new.
    ///
    /// # Panics
    /// If `seq` is above [`SEQ_MAX`].
    pub fn insert(&mut self, seq: u64) -> bool {
        let (page, place) = Page::place(seq);
        self.pages.entry(page).or_insert(Page::EMPTY).insert(place)
    }

    /// The stored pages it consists of.
    pub fn pages(&self) -> impl Iterator<Item = (u32, &Page)> {
        self.pages.iter().map(|(number, page)| (*number, page))
    }

    /// Whether it is there.
    pub fn contains(&self, seq: u64) -> bool {
        if seq > SEQ_MAX {
            return false;
        }
        let (page, place) = Page::place(seq);
        self.pages.get(&page).is_some_and(|page| page.contains(place))
    }

    /// How many groups there are.
    pub fn len(&self) -> u64 {
        self.pages.values().map(Page::len).sum()
    }

    /// Adds all groups of another inventory.
    pub fn merge(&mut self, other: &Have) {
        for (number, page) in &other.pages {
            let mine = self.pages.entry(*number).or_insert(Page::EMPTY);
            mine.0.iter_mut().zip(page.0).for_each(|(mine, word)| *mine |= word);
        }
    }

    /// The groups that are here and not in another inventory.
    pub fn without(&self, other: &Have) -> Have {
        let left = self.pages.iter().map(|(number, page)| {
            let other = other.pages.get(number).unwrap_or(&Page::EMPTY);
            (*number, Page(std::array::from_fn(|word| page.0[word] & !other.0[word])))
        });
        Have::from_pages(left)
    }

    /// Its pages that are not the same in another inventory, by number; an empty one where only the other has one.
    pub fn pages_unlike<'a>(&'a self, other: &'a Have) -> impl Iterator<Item = (u32, &'a Page)> {
        let numbers: BTreeSet<u32> = self.pages.keys().chain(other.pages.keys()).copied().collect();
        numbers.into_iter().filter_map(move |number| {
            let page = |have: &'a Have| have.pages.get(&number).unwrap_or(&Page::EMPTY);
            (page(self) != page(other)).then(|| (number, page(self)))
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The highest number there is.
    pub fn last(&self) -> Option<u64> {
        let (number, page) = self.pages.last_key_value()?;
        let word = page.0.iter().rposition(|word| *word != 0)?;
        let bit = 63 - page.0[word].leading_zeros() as usize;
        Some(u64::from(*number) * PAGE_LEN + (word * 64 + bit) as u64)
    }

    /// The runs of groups that are there, rising, none touching the next.
    pub fn runs(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next(from)?;
            let last = self.run_end(first);
            from = last + 1;
            Some(first..=last)
        })
    }

    /// The first group from `seq` on that is there.
    fn next(&self, seq: u64) -> Option<u64> {
        if seq > SEQ_MAX {
            return None;
        }
        let (first_page, first_place) = Page::place(seq);
        self.pages.range(first_page..).find_map(|(number, page)| {
            let from = if *number == first_page { first_place } else { 0 };
            Some(u64::from(*number) * PAGE_LEN + page.find(from, true)? as u64)
        })
    }

    /// The last group of the run that `seq` is in.
    fn run_end(&self, seq: u64) -> u64 {
        let (mut number, mut place) = Page::place(seq);
        loop {
            let start = u64::from(number) * PAGE_LEN;
            let hole = self.pages.get(&number).map_or(Some(place), |page| page.find(place, false));
            match hole {
                Some(hole) => return start + hole as u64 - 1,
                None if number == u32::MAX => return SEQ_MAX,
                None => (number, place) = (number + 1, 0),
            }
        }
    }

    /// What is missing within a range, as at most `limit` ranges from its beginning.
    pub fn missing(&self, within: RangeInclusive<u64>, limit: usize) -> Vec<RangeInclusive<u64>> {
        let (mut from, to) = within.into_inner();
        let mut missing = Vec::new();
        while from <= to && missing.len() < limit {
            let Some(present) = self.next(from).filter(|seq| *seq <= to) else {
                missing.push(from..=to);
                break;
            };
            if present > from {
                missing.push(from..=present - 1);
            }
            from = self.run_end(present) + 1;
        }
        missing
    }

    /// The inventory as it travels: version, number of pages (u16), then each page's number (u32) and form: 0 all,
    /// 1 a bitmap, 2 runs (their number, then place and length less one of each, u16). The shortest form is taken.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        let count = self.pages.len().min(PAGE_COUNT_MAX);
        bytes.extend_from_slice(&(count as u16).to_be_bytes());
        for (number, page) in self.pages.iter().take(count) {
            bytes.extend_from_slice(&number.to_be_bytes());
            let runs = page_runs(page);
            if page.len() == PAGE_LEN {
                bytes.push(0);
            } else if 2 + 4 * runs.len() < 8 * WORDS {
                bytes.push(2);
                bytes.extend_from_slice(&(runs.len() as u16).to_be_bytes());
                for (first, last) in runs {
                    bytes.extend_from_slice(&(first as u16).to_be_bytes());
                    bytes.extend_from_slice(&((last - first) as u16).to_be_bytes());
                }
            } else {
                bytes.push(1);
                page.0.iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
            }
        }
        bytes
    }

    /// Reads an inventory from a peer. Only the one encoding is taken.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const CUT: Error = Error("too few bytes");
        let mut rest = bytes;
        let mut take = |len: usize| {
            let (taken, left) = rest.split_at_checked(len).ok_or(CUT)?;
            rest = left;
            Ok(taken)
        };
        let number16 = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        if take(1)? != [Self::VERSION] {
            return Err(Error("an unknown version"));
        }
        let count = number16(take(2)?);
        if count > PAGE_COUNT_MAX {
            return Err(Error("more pages than it may have"));
        }
        let mut have = Have::new();
        for _ in 0..count {
            let number = u32::from_be_bytes(take(4)?.try_into().expect("four bytes were taken"));
            let page = match take(1)? {
                [0] => Page([u64::MAX; WORDS]),
                [1] => {
                    let words = take(8 * WORDS)?.chunks_exact(8);
                    let mut page = Page::EMPTY;
                    for (word, bytes) in page.0.iter_mut().zip(words) {
                        *word = u64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
                    }
                    page
                }
                [2] => {
                    let mut page = Page::EMPTY;
                    for _ in 0..number16(take(2)?) {
                        let (first, len) = (number16(take(2)?), number16(take(2)?));
                        if first + len >= PAGE_LEN as usize {
                            return Err(Error("a run beyond its page"));
                        }
                        (first..=first + len).for_each(|place| {
                            page.insert(place);
                        });
                    }
                    page
                }
                _ => return Err(Error("a page of an unknown form")),
            };
            have.pages.insert(number, page);
        }
        // Also refuses bytes at the end, empty pages, pages or runs out of order, and a longer form than needed.
        if have.pages.values().any(|page| *page == Page::EMPTY) || have.encode() != bytes {
            return Err(Error("another than the shortest form"));
        }
        Ok(have)
    }
}

/// First and last place of each run of a page.
fn page_runs(page: &Page) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut from = 0;
    while let Some(first) = page.find(from, true) {
        let end = page.find(first, false).unwrap_or(PAGE_LEN as usize);
        runs.push((first, end - 1));
        from = end;
    }
    runs
}

impl fmt::Debug for Have {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

impl FromIterator<u64> for Have {
    fn from_iter<I: IntoIterator<Item = u64>>(seqs: I) -> Self {
        let mut have = Have::new();
        seqs.into_iter().for_each(|seq| {
            have.insert(seq);
        });
        have
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Full page, runs and a bitmap, as the first version wrote them; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/have-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let have: Have = (0..4096).chain([5000, 5001, 5007]).chain((8192..12288).step_by(2)).collect();
        assert_eq!(hex::encode(have.encode()), VERSION_1.trim());
        assert_eq!(Have::decode(&hex::decode(VERSION_1.trim()).unwrap()), Ok(have));
    }

    #[test]
    fn two_hours_of_a_track_with_a_few_holes_fit_in_a_hundred_bytes() {
        let have: Have = (0..3600).filter(|seq| seq % 400 != 7).collect();
        assert!(have.encode().len() < 100, "{}", have.encode().len());
    }

    #[test]
    fn a_far_head_costs_no_more_than_a_near_one() {
        let have: Have = [3, SEQ_MAX].into_iter().collect();
        assert_eq!(have.missing(0..=SEQ_MAX, 9), [0..=2, 4..=SEQ_MAX - 1]);
        assert_eq!(have.missing(0..=SEQ_MAX, 1), [0..=2]);
        assert_eq!(have.last(), Some(SEQ_MAX));
        assert_eq!(have.runs().collect::<Vec<_>>(), [3..=3, SEQ_MAX..=SEQ_MAX]);
        assert_eq!(Have::new().missing(5..=u64::MAX, 9), [5..=u64::MAX]);
        assert!(!have.contains(u64::MAX));
    }

    #[test]
    fn only_the_shortest_form_is_taken() {
        for (what, hex) in [
            ("nothing", ""),
            ("another version", "020000"),
            ("more pages than may be", "01ffff"),
            ("a page cut short", "0100010000000001"),
            ("an empty page", "010001000000000200000000"),
            ("a run beyond its page", "0100010000000002000110000000"),
            ("two runs that touch", "01000100000000020002000000000001 0000"),
            ("a byte after it", "01000000"),
            ("a page of an unknown form", "0100010000000003"),
        ] {
            let bytes = hex::decode(hex.replace(' ', "")).unwrap();
            assert!(Have::decode(&bytes).is_err(), "{what}");
        }
        assert_eq!(Have::decode(&[1, 0, 0]), Ok(Have::new()));
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(
            seqs in proptest::collection::btree_set(prop_oneof![0..200u64, 4000..4200u64, 8000..13000u64], 0..300),
            within in (0..14000u64, 0..14000u64),
        ) {
            let have: Have = seqs.iter().copied().collect();
            prop_assert_eq!(have.len(), seqs.len() as u64);
            prop_assert_eq!(have.last(), seqs.last().copied());
            prop_assert_eq!(have.runs().flatten().collect::<BTreeSet<_>>(), seqs.clone());
            let missing: BTreeSet<_> = have.missing(within.0..=within.1, usize::MAX).into_iter().flatten().collect();
            let expected: BTreeSet<_> = (within.0..=within.1).filter(|seq| !seqs.contains(seq)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(Have::decode(&have.encode()), Ok(have.clone()));
            let within: Have = (within.0..=within.1).collect();
            let left = seqs.iter().copied().filter(|seq| !within.contains(*seq)).collect::<Have>();
            prop_assert_eq!(have.without(&within), left.clone());
            let mut sum = left;
            sum.merge(&have);
            prop_assert_eq!(&sum, &have);
            prop_assert_eq!(have.without(&have), Have::new());
            let changes = within.pages_unlike(&have).map(|(number, page)| (number, page.clone()));
            let unlike: BTreeMap<u32, Page> = changes.collect();
            let mut pages = have.pages.clone();
            pages.extend(unlike);
            prop_assert_eq!(&Have::from_pages(pages), &within);
            for (number, page) in &have.pages {
                prop_assert_eq!(Page::decode(&page.encode()), Ok(page.clone()), "page {}", number);
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Have::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            if let Ok(have) = Have::decode(&bytes) {
                prop_assert_eq!(have.encode(), bytes);
            }
        }
    }
}
