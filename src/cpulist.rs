//! Sets of CPUs and the kernel's text form of them, the *cpulist*: `0-3,7`; and by which numbers
//! the CPUs of a container are shown.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// More CPUs than any kernel is built for (`CONFIG_NR_CPUS` is at most 8192): a larger number
/// in a cpulist is malformed, so hostile text cannot make a set grow without bound.
const MOST_CPUS: u32 = 65_536;

/// A set of CPUs by their physical numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Parses a cpulist (`cpuset(7)`, *List format*); surrounding white space is ignored and
    /// empty text is the empty set. None for any other form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<CpuSet> {
        let text = std::str::from_utf8(text).ok()?.trim();
        let mut cpus = BTreeSet::new();
        if text.is_empty() {
            return Some(CpuSet(cpus));
        }
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (parse_cpu(first)?, parse_cpu(last)?);
            if last < first {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(CpuSet(cpus))
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.intersection(&other.0).copied().collect())
    }

    /// The CPUs of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }

    /// The `count` CPUs with the lowest numbers.
    #[must_use]
    pub fn first(&self, count: usize) -> CpuSet {
        CpuSet(self.0.iter().take(count).copied().collect())
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// All of them, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        CpuSet(cpus.into_iter().collect())
    }
}

/// By which numbers CPUs are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuIds {
    /// Their own.
    #[default]
    Physical,
    /// From 0 on, without a gap.
    Compact,
}

impl FromStr for CpuIds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<CpuIds, Self::Err> {
        match text {
            "physical" => Ok(CpuIds::Physical),
            "compact" => Ok(CpuIds::Compact),
            _ => Err("expected physical or compact"),
        }
    }
}

/// The CPUs that a container is shown, and the numbers by which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    cpus: CpuSet,
    ids: CpuIds,
}

impl Present {
    /// These, by these numbers.
    #[must_use]
    pub fn new(cpus: CpuSet, ids: CpuIds) -> Present {
        Present { cpus, ids }
    }

    /// How they are numbered.
    #[must_use]
    pub fn ids(&self) -> CpuIds {
        self.ids
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cpus.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cpus.is_empty()
    }

    /// Whether the CPU with the physical number `cpu` is one of them.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.cpus.contains(cpu)
    }

    /// Their physical numbers, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.cpus.iter()
    }

    /// The numbers by which they are shown, in the same order.
    #[must_use]
    pub fn numbers(&self) -> CpuSet {
        match self.ids {
            CpuIds::Physical => self.cpus.clone(),
            CpuIds::Compact => (0..).zip(self.iter()).map(|(number, _)| number).collect(),
        }
    }

    /// The number by which the CPU with the physical number `cpu` is shown.
    #[must_use]
    pub fn number_of(&self, cpu: u32) -> Option<u32> {
        match self.ids {
            CpuIds::Physical => self.contains(cpu).then_some(cpu),
            CpuIds::Compact => (0..).zip(self.iter()).find(|(_, of)| *of == cpu).map(|(at, _)| at),
        }
    }

    /// The physical number of the CPU that is shown as `number`.
    #[must_use]
    pub fn physical(&self, number: u32) -> Option<u32> {
        match self.ids {
            CpuIds::Physical => self.contains(number).then_some(number),
            CpuIds::Compact => self.iter().nth(usize::try_from(number).ok()?),
        }
    }

    /// Those of the physical `cpus` that are there, by the numbers by which they are shown.
    #[must_use]
    pub fn among(&self, cpus: &CpuSet) -> CpuSet {
        let numbers = self.numbers();
        let both = self.iter().zip(numbers.iter()).filter(|(cpu, _)| cpus.contains(*cpu));
        both.map(|(_, number)| number).collect()
    }
}

/// By their physical numbers.
impl From<CpuSet> for Present {
    fn from(cpus: CpuSet) -> Present {
        Present::new(cpus, CpuIds::Physical)
    }
}

/// Prints the cpulist as the kernel does: ascending, runs of two and more as ranges.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// One CPU number: digits only, since `str::parse` would take a sign.
fn parse_cpu(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&cpu| cpu < MOST_CPUS)
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> String {
        cpus.to_string()
    }
}

impl TryFrom<String> for CpuSet {
    type Error = &'static str;

    fn try_from(text: String) -> Result<CpuSet, &'static str> {
        CpuSet::parse(text.as_bytes()).ok_or("expected a list of CPUs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_list_form_round_trips() {
        for text in ["", "0", "0-1", "0-3,7", "2,4,6-9"] {
            assert_eq!(set(text).to_string(), text);
        }
        assert_eq!(set("3,1-2\n").to_string(), "1-3");
        assert_eq!(set("0-3,7").len(), 5);
        assert!(set(" \n").is_empty());
        assert!(!set("5").is_empty());
    }

    #[test]
    fn numbers_by_which_cpus_are_shown() {
        let physical = Present::from(set("2,4-5"));
        assert_eq!(physical.numbers(), set("2,4-5"));
        assert_eq!(physical.among(&set("0-4")), set("2,4"));
        assert_eq!((physical.number_of(4), physical.physical(4)), (Some(4), Some(4)));
        let compact = Present::new(set("2,4-5"), CpuIds::Compact);
        assert_eq!(compact.numbers(), set("0-2"));
        assert_eq!(compact.among(&set("0-4")), set("0-1"));
        assert_eq!((compact.number_of(4), compact.physical(2)), (Some(1), Some(5)));
        for present in [physical, compact] {
            assert_eq!((present.number_of(3), present.physical(3)), (None, None));
            assert_eq!(present.iter().collect::<CpuSet>(), set("2,4-5"));
            assert!(present.contains(5) && !present.contains(0));
        }
        assert_eq!("dense".parse::<CpuIds>(), Err("expected physical or compact"));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["-", "1-", "-1", "a", "3-1", "0,,1", "0-99999999", "65536", "+1", "0 1"] {
            assert_eq!(CpuSet::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(CpuSet::parse(b"65535").map(|cpus| cpus.len()), Some(1));
        assert_eq!(CpuSet::parse(b"\xff"), None);
    }

    #[test]
    fn sets() {
        assert_eq!(set("0-5").intersection(&set("4-9")), set("4-5"));
        assert_eq!(set("0-5").difference(&set("1,4-9")), set("0,2-3"));
        assert_eq!(set("2-6").first(3), set("2-4"));
        assert_eq!(set("2").first(3), set("2"));
        assert!(set("2-4").contains(3) && !set("2-4").contains(5));
        assert_eq!(set("1,3").iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!([3, 1].into_iter().collect::<CpuSet>(), set("1,3"));
    }
}
