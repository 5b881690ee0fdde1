//! Sets of sequence numbers that are mostly consecutive.

/// A set of numbers, kept as the intervals that they form.
///
/// Hosts number their lines from 0 on, one by one, so that even billions of lines are a handful of intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntervalSet {
    /// First and last number of each interval, ascending, with at least one number missing between two.
    intervals: Vec<(u64, u64)>,
}

impl IntervalSet {
    /// Adds a number; `false` when it was there already.
    ///
    /// Costs nothing to speak of when the number is the highest so far, the number of intervals otherwise.
    pub fn insert(&mut self, number: u64) -> bool {
        match self.intervals.last_mut() {
            Some((_, last)) if number.checked_sub(1) == Some(*last) => *last = number,
            Some((_, last)) if number <= *last => return self.insert_inside(number),
            _ => self.intervals.push((number, number)),
        }
        true
    }

    /// Adds all of `other`; gives how many of its numbers were there already.
    pub fn union(&mut self, other: &Self) -> u64 {
        let before = self.distinct().saturating_add(other.distinct());
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.intervals.len() + other.intervals.len());
        let (mut ours, mut theirs) = (&self.intervals[..], &other.intervals[..]);
        loop {
            let (first, last) = match (ours, theirs) {
                ([our, rest @ ..], []) => {
                    ours = rest;
                    *our
                }
                ([our, rest @ ..], [their, ..]) if our.0 <= their.0 => {
                    ours = rest;
                    *our
                }
                (_, [their, rest @ ..]) => {
                    theirs = rest;
                    *their
                }
                ([], []) => break,
            };
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        self.intervals = merged;
        before.saturating_sub(self.distinct())
    }

    /// Whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.position(number).is_ok()
    }

    /// How many numbers are in the set; [`u64::MAX`] if there are more than that.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.intervals.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// How many numbers between the lowest and the highest are not in the set.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.intervals.windows(2).map(|pair| pair[1].0 - pair[0].1 - 1).sum()
    }

    /// The highest number.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.intervals.last().map(|&(_, last)| last)
    }

    /// First and last number of each interval, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.intervals.iter().copied()
    }

    /// The interval that holds the number, or the place where one that does would go.
    fn position(&self, number: u64) -> Result<usize, usize> {
        let place = self.intervals.partition_point(|&(_, last)| last < number);
        match self.intervals.get(place) {
            Some(&(first, _)) if first <= number => Ok(place),
            _ => Err(place),
        }
    }

    fn insert_inside(&mut self, number: u64) -> bool {
        let Err(place) = self.position(number) else { return false };
        let extends = place > 0 && self.intervals[place - 1].1 + 1 == number;
        let precedes = self.intervals[place].0 - 1 == number;
        match (extends, precedes) {
            (true, true) => {
                self.intervals[place - 1].1 = self.intervals[place].1;
                self.intervals.remove(place);
            }
            (true, false) => self.intervals[place - 1].1 = number,
            (false, true) => self.intervals[place].0 = number,
            (false, false) => self.intervals.insert(place, (number, number)),
        }
        true
    }
}

impl FromIterator<u64> for IntervalSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn is_normal(set: &IntervalSet) -> bool {
        set.intervals.iter().all(|(first, last)| first <= last)
            && set.intervals.windows(2).all(|pair| pair[1].0 > pair[0].1 && pair[1].0 - pair[0].1 > 1)
    }

    /// Numbers close to each other, at both ends of what there is.
    fn numbers() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(prop_oneof![0..40_u64, (u64::MAX - 40)..=u64::MAX], 0..60)
    }

    #[test]
    fn a_run_is_one_interval() {
        let mut set: IntervalSet = (0..1_000).chain(2_000..3_000).collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 999), (2_000, 2_999)]);
        assert_eq!((set.distinct(), set.missing(), set.highest()), (2_000, 1_000, Some(2_999)));
        assert!((1_000..2_000).rev().all(|number| set.insert(number)));
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 2_999)]);
        assert!(!set.insert(1_500));
    }

    #[test]
    fn the_whole_range_does_not_overflow() {
        let mut set = IntervalSet { intervals: vec![(0, u64::MAX - 1)] };
        assert!(set.insert(u64::MAX));
        assert_eq!((set.distinct(), set.missing()), (u64::MAX, 0));
        assert!(!set.insert(0) && !set.insert(u64::MAX));
        let same = set.clone();
        set.union(&same);
        assert_eq!(set, same);
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in numbers()) {
            let mut set = IntervalSet::default();
            let mut model = BTreeSet::new();
            for &number in &numbers {
                prop_assert_eq!(set.insert(number), model.insert(number));
                prop_assert!(is_normal(&set));
            }
            prop_assert_eq!(set.distinct(), model.len() as u64);
            prop_assert_eq!(set.highest(), model.last().copied());
            let missing = model.iter().zip(model.iter().skip(1)).map(|(low, high)| high - low - 1).sum::<u64>();
            prop_assert_eq!(set.missing(), missing);
            prop_assert!(numbers.iter().all(|&number| set.contains(number)));
            prop_assert!((0..42).all(|number| set.contains(number) == model.contains(&number)));
        }

        #[test]
        fn union_is_insertion_of_all(ours in numbers(), theirs in numbers()) {
            let mut set: IntervalSet = ours.iter().copied().collect();
            let other: IntervalSet = theirs.iter().copied().collect();
            let both = theirs.iter().collect::<BTreeSet<_>>().into_iter().filter(|&&number| set.contains(number)).count();
            prop_assert_eq!(set.union(&other), both as u64);
            prop_assert!(is_normal(&set));
            prop_assert_eq!(set, ours.into_iter().chain(theirs).collect::<IntervalSet>());
        }
    }
}
