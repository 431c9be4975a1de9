//! What rows of a list are asked for: conditions, put together. What is not asked for does not stand in the statement,
//! so that the database goes by the index of what is.

use std::fmt::Write as _;

use super::value::Value;

#[derive(Debug, Default)]
pub(super) struct Filter {
    text: String,
    values: Vec<Value>,
}

impl Filter {
    /// Only rows of which `condition` is true; `?` in it stands for the value. None: that is not asked.
    pub(super) fn and(mut self, condition: &'static str, value: Option<impl Into<Value>>) -> Self {
        let Some(value) = value else { return self };
        self.values.push(value.into());
        let place = format!("${}", self.values.len());
        self.only(&condition.replace('?', &place));
        self
    }

    /// Only rows of which `condition` is true, which has no value.
    pub(super) fn and_that(mut self, condition: Option<&'static str>) -> Self {
        if let Some(condition) = condition {
            self.only(condition);
        }
        self
    }

    fn only(&mut self, condition: &str) {
        let word = if self.text.is_empty() { "WHERE" } else { " AND" };
        // Writing into a String cannot fail.
        let _ = write!(self.text, "{word} {condition}");
    }

    /// The rest of a statement: the conditions, an order, and how many rows there are to be; with all values.
    pub(super) fn ordered(mut self, order: &'static str, limit: u32) -> (String, Vec<Value>) {
        self.values.push(limit.into());
        (format!("{} ORDER BY {order} LIMIT ${}", self.text, self.values.len()), self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_does_not_stand_in_the_statement() {
        let filter =
            Filter::default().and("a = ?", Some(1u64)).and("b = ?", None::<u64>).and("c < ?", Some(2u64));
        let (text, values) = filter.and_that(Some("d IS NULL")).and_that(None).ordered("a DESC", 3);
        assert_eq!(text, "WHERE a = $1 AND c < $2 AND d IS NULL ORDER BY a DESC LIMIT $3");
        assert_eq!(values, [Value::Integer(1), Value::Integer(2), Value::Integer(3)]);
        assert_eq!(Filter::default().ordered("a", 1).0, " ORDER BY a LIMIT $1");
    }
}
