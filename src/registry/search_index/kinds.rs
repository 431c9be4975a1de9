//! What offers are alike in. Offers that differ in price, memory, disk and name alone are of one kind; kinds that differ in
//! the number of CPUs alone are of one class: mostly what one host, or many alike, has to offer. A search judges each
//! class at most once.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use super::run::Run;
use crate::domain::{matching::Conditions, money::Price, resources::Allocation, terms::Terms};

/// Stands for a kind as long as there is one of it.
pub(super) type KindNumber = usize;
type ClassNumber = usize;

#[derive(Debug)]
pub(super) struct Kind {
    /// As good as can be in what the kind's offers differ in.
    pub(super) terms: Arc<Terms>,
    /// Offers of hosts that are heard.
    pub(super) run: Run,
    /// How many offers there are, those of silent hosts included.
    count: usize,
    class: ClassNumber,
}

#[derive(Debug)]
struct Class {
    /// As good as can be in what the kinds of the class differ in, too.
    terms: Arc<Terms>,
    /// How many kinds there are.
    count: usize,
}

#[derive(Debug, Default)]
pub(super) struct Kinds {
    kinds: Slab<Kind>,
    classes: Slab<Class>,
    kind_of: HashMap<Arc<Terms>, KindNumber>,
    class_of: HashMap<Arc<Terms>, ClassNumber>,
}

impl Kinds {
    /// Counts an offer of these terms with its kind.
    pub(super) fn keep(&mut self, terms: &Terms) -> KindNumber {
        let allocation = Allocation { memory_mib: u64::MAX, disk_mib: u64::MAX, ..terms.allocation };
        let best = Terms { allocation, price: Price { per_hour_micros: 0, ..terms.price }, ..terms.clone() };
        let number = match self.kind_of.get(&best) {
            Some(number) => *number,
            None => self.add(best),
        };
        if let Some(kind) = self.kinds.get_mut(number) {
            kind.count += 1;
        }
        number
    }

    fn add(&mut self, terms: Terms) -> KindNumber {
        let class = self.keep_class(&terms);
        let terms = Arc::new(terms);
        let kind = Kind { terms: Arc::clone(&terms), run: Run::default(), count: 0, class };
        let number = self.kinds.insert(kind);
        self.kind_of.insert(terms, number);
        number
    }

    fn keep_class(&mut self, terms: &Terms) -> ClassNumber {
        let best = Terms { allocation: Allocation { cpus: u32::MAX, ..terms.allocation }, ..terms.clone() };
        let number = match self.class_of.get(&best) {
            Some(number) => *number,
            None => {
                let terms = Arc::new(best);
                let number = self.classes.insert(Class { terms: Arc::clone(&terms), count: 0 });
                self.class_of.insert(terms, number);
                number
            }
        };
        if let Some(class) = self.classes.get_mut(number) {
            class.count += 1;
        }
        number
    }

    /// Takes back what was counted.
    pub(super) fn forget(&mut self, number: KindNumber) {
        let Some(kind) = self.kinds.get_mut(number) else { return };
        kind.count -= 1;
        if kind.count == 0 {
            let kind = self.kinds.remove(number);
            self.kind_of.remove(&kind.terms);
            self.forget_class(kind.class);
        }
    }

    fn forget_class(&mut self, number: ClassNumber) {
        let Some(class) = self.classes.get_mut(number) else { return };
        class.count -= 1;
        if class.count == 0 {
            let class = self.classes.remove(number);
            self.class_of.remove(&class.terms);
        }
    }

    pub(super) fn get(&self, number: KindNumber) -> Option<&Kind> {
        self.kinds.get(number)
    }

    pub(super) fn run_mut(&mut self, number: KindNumber) -> Option<(&Terms, &mut Run)> {
        self.kinds.get_mut(number).map(|kind| (&*kind.terms, &mut kind.run))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().map(|(_, kind)| kind)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
            && self.classes.is_empty()
            && self.kind_of.is_empty()
            && self.class_of.is_empty()
    }

    pub(super) fn judge<'a>(&'a self, conditions: &'a Conditions) -> Judge<'a> {
        let highest = self.classes.iter().next_back().map_or(0, |(number, _)| number + 1);
        Judge { kinds: self, conditions, classes: vec![None; highest] }
    }
}

/// Judges the kinds for one search.
pub(super) struct Judge<'a> {
    kinds: &'a Kinds,
    conditions: &'a Conditions,
    /// What was found of each class so far.
    classes: Vec<Option<bool>>,
}

impl Judge<'_> {
    /// Whether there can be an offer of this kind that meets the conditions.
    pub(super) fn passes(&mut self, kind: &Kind) -> bool {
        let Self { kinds, conditions, classes } = self;
        if !conditions.cpus_met_by(kind.terms.allocation.cpus) {
            return false;
        }
        let Some(judged) = classes.get_mut(kind.class) else { return false };
        *judged.get_or_insert_with(|| {
            kinds.classes.get(kind.class).is_some_and(|class| conditions.satisfied_by(&class.terms))
        })
    }
}
