//! How to: recipes that run, choosing sizes, questions and answers, the format of the file.
#![forbid(unsafe_code)]

#[doc = include_str!("guide/recipes.md")]
pub mod recipes {}

#[doc = include_str!("guide/sizes.md")]
pub mod sizes {}

#[doc = include_str!("guide/questions.md")]
pub mod questions {}

#[doc = include_str!("guide/format.md")]
pub mod format {}
