//! What rounds come to.

use serde_json::{Value, json};

/// Of the rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (len, at) = (values.len(), |at: usize| values.get(at).copied().unwrap_or(f64::NAN));
        Spread { median: (at((len.max(1) - 1) / 2) + at(len / 2)) / 2.0, least: at(0), most: at(len.max(1) - 1) }
    }

    /// Beside the values that it is of.
    pub fn json(values: &[f64]) -> Value {
        let Spread { median, least, most } = Spread::of(values);
        json!({ "median": median, "least": least, "most": most, "rounds": values })
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(&values.into_iter().collect::<Vec<_>>()).median
}

/// One by the other within each round; the median of the rounds.
pub fn ratio(ones: &[f64], others: &[f64]) -> f64 {
    median(ones.iter().zip(others).map(|(one, other)| one / other))
}

pub fn geometric_mean(values: &[f64]) -> f64 {
    let logs: f64 = values.iter().map(|value| value.ln()).sum();
    (logs / values.len() as f64).exp()
}
