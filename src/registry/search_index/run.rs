//! The offers of one kind, in the order they are found in: blocks of rows, and of each block how much memory and disk
//! its largest has. A search passes over a block of which no row can be large enough.

use crate::domain::{
    id::{HostId, PartitionId},
    matching::{Condition, Conditions, Explanation},
    terms::TermsVersion,
};

/// A block that has grown to twice as many rows is split. Tests have so few that small markets have many blocks.
const BLOCK_ROWS: usize = if cfg!(test) { 2 } else { 64 };

/// A row's place in its run: cheapest first, then smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) per_hour_micros: i64,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
    pub(super) partition: PartitionId,
    pub(super) host: HostId,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) spot: Spot,
    pub(super) version: TermsVersion,
}

/// Rows in ascending order; never empty.
#[derive(Debug)]
struct Block {
    rows: Vec<Row>,
    most_memory_mib: u64,
    most_disk_mib: u64,
}

/// Blocks in ascending order.
#[derive(Debug, Default)]
pub(super) struct Run {
    blocks: Vec<Block>,
    len: usize,
}

/// Where a row lies, until the run changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    block: usize,
    row: usize,
}

impl Block {
    fn of(rows: Vec<Row>) -> Self {
        let mut block = Self { rows, most_memory_mib: 0, most_disk_mib: 0 };
        block.measure();
        block
    }

    fn measure(&mut self) {
        self.most_memory_mib = self.rows.iter().map(|row| row.spot.memory_mib).max().unwrap_or_default();
        self.most_disk_mib = self.rows.iter().map(|row| row.spot.disk_mib).max().unwrap_or_default();
    }

    fn can_meet(&self, conditions: &Conditions) -> bool {
        conditions.memory_met_by(self.most_memory_mib) && conditions.disk_met_by(self.most_disk_mib)
    }

    fn begins_by(&self, spot: &Spot) -> bool {
        self.rows.first().is_some_and(|first| first.spot <= *spot)
    }
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<&Row> {
        self.blocks.first()?.rows.first()
    }

    pub(super) fn row(&self, at: At) -> Option<&Row> {
        self.blocks.get(at.block)?.rows.get(at.row)
    }

    pub(super) fn insert(&mut self, row: Row) {
        let at = self.first_at_least(&row.spot);
        self.len += 1;
        let Some(block) = self.blocks.get_mut(at.block) else {
            self.blocks.push(Block::of(vec![row]));
            return;
        };
        block.rows.insert(at.row, row);
        block.most_memory_mib = block.most_memory_mib.max(row.spot.memory_mib);
        block.most_disk_mib = block.most_disk_mib.max(row.spot.disk_mib);
        if block.rows.len() >= 2 * BLOCK_ROWS {
            let upper = Block::of(block.rows.split_off(BLOCK_ROWS));
            block.measure();
            self.blocks.insert(at.block + 1, upper);
        }
    }

    pub(super) fn remove(&mut self, spot: &Spot) {
        let at = self.first_at_least(spot);
        let Some(block) = self.blocks.get_mut(at.block) else { return };
        if block.rows.get(at.row).is_none_or(|row| row.spot != *spot) {
            return;
        }
        block.rows.remove(at.row);
        block.measure();
        if block.rows.is_empty() {
            self.blocks.remove(at.block);
        }
        self.len -= 1;
    }

    /// Where `spot` is or would be, in the block that it belongs to.
    fn first_at_least(&self, spot: &Spot) -> At {
        let block = self.blocks.partition_point(|block| block.begins_by(spot)).saturating_sub(1);
        let rows = self.blocks.get(block).map_or(&[][..], |block| &block.rows);
        At { block, row: rows.partition_point(|row| row.spot < *spot) }
    }

    /// The first row from `spot` on (none: of all) that is large and cheap enough.
    pub(super) fn first_match(&self, conditions: &Conditions, from: Option<&Spot>) -> Option<At> {
        let at = from.map_or(At { block: 0, row: 0 }, |spot| self.first_at_least(spot));
        self.match_from(conditions, at)
    }

    /// The first after that at `at`.
    pub(super) fn next_match(&self, conditions: &Conditions, at: At) -> Option<At> {
        self.match_from(conditions, At { row: at.row + 1, ..at })
    }

    fn match_from(&self, conditions: &Conditions, from: At) -> Option<At> {
        let mut row = from.row;
        for (number, block) in self.blocks.iter().enumerate().skip(from.block) {
            // All that follow cost at least as much.
            let first = block.rows.first()?;
            if !conditions.price_met_by(first.spot.per_hour_micros) {
                return None;
            }
            if block.can_meet(conditions) {
                let rest = block.rows.get(row..).unwrap_or_default();
                if let Some(found) = rest.iter().position(|row| is_met_by(conditions, &row.spot)) {
                    return Some(At { block: number, row: row + found });
                }
            }
            row = 0;
        }
        None
    }

    /// Counts the rows that are too small or too dear.
    pub(super) fn explain(&self, conditions: &Conditions, explanation: &mut Explanation) {
        let count = |met: &dyn Fn(&Spot) -> bool| -> u64 {
            let rows = self.blocks.iter().flat_map(|block| &block.rows);
            rows.map(|row| u64::from(!met(&row.spot))).sum()
        };
        if !conditions.memory_met_by(0) {
            explanation.fell(Condition::Memory, count(&|spot| conditions.memory_met_by(spot.memory_mib)));
        }
        if !conditions.disk_met_by(0) {
            explanation.fell(Condition::Disk, count(&|spot| conditions.disk_met_by(spot.disk_mib)));
        }
        if !conditions.price_met_by(i64::MAX) {
            explanation.fell(Condition::Price, count(&|spot| conditions.price_met_by(spot.per_hour_micros)));
        }
    }
}

fn is_met_by(conditions: &Conditions, spot: &Spot) -> bool {
    conditions.memory_met_by(spot.memory_mib)
        && conditions.disk_met_by(spot.disk_mib)
        && conditions.price_met_by(spot.per_hour_micros)
}
