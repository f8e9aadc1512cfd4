//! What a new channel is to be like, on the command line.

use std::time::Duration;

use disk_chan::{Options, Overflow};

/// What is not given stays as it is
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "The new channel")]
pub struct Geometry {
    /// Bytes a page, such as 16M
    #[arg(long, value_parser = crate::bytes, value_name = "BYTES")]
    page_size: Option<usize>,
    /// Pages
    #[arg(long, value_name = "N")]
    pages: Option<usize>,
    /// Bytes of a usual message
    #[arg(long, value_parser = crate::bytes, value_name = "BYTES")]
    typical_message_len: Option<usize>,
    /// Most groups
    #[arg(long, value_name = "N")]
    max_groups: Option<usize>,
    /// Most opens at once
    #[arg(long, value_name = "N")]
    max_opens: Option<usize>,
    /// Most messages of a group that are handed out at once
    #[arg(long, value_name = "N")]
    max_held: Option<usize>,
    /// What a full ring does
    #[arg(long, value_name = "WHAT")]
    overflow: Option<Full>,
    /// How long messages are kept that nobody reads, such as 7d, or `none`
    #[arg(long, value_parser = time_or_none, value_name = "TIME")]
    max_age: Option<Duration>,
    /// How long a lease is its holder's, such as 30s, or `none`
    #[arg(long, value_parser = time_or_none, value_name = "TIME")]
    lease_timeout: Option<Duration>,
    /// Deliveries after which a message becomes a dead letter; 0 is never
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Full {
    /// Senders wait
    Block,
    /// The oldest page goes
    DropOldest,
}

fn time_or_none(text: &str) -> Result<Duration, String> {
    match text {
        "none" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// With a value, if there is one.
fn set<T>(options: Options, value: Option<T>, set: impl FnOnce(Options, T) -> Options) -> Options {
    match value {
        Some(value) => set(options, value),
        None => options,
    }
}

impl Geometry {
    /// On top of these.
    pub fn over(&self, options: Options) -> Options {
        let overflow = self.overflow.map(|full| match full {
            Full::Block => Overflow::Block,
            Full::DropOldest => Overflow::DropOldest,
        });
        let options = set(options, self.page_size, Options::page_size);
        let options = set(options, self.pages, Options::max_pages);
        let options = set(options, self.typical_message_len, Options::typical_message_len);
        let options = set(options, self.max_groups, Options::max_groups);
        let options = set(options, self.max_opens, Options::max_opens);
        let options = set(options, self.max_held, Options::max_held);
        let options = set(options, overflow, Options::overflow);
        let options = set(options, self.max_age, Options::max_age);
        let options = set(options, self.lease_timeout, Options::lease_timeout);
        set(options, self.max_attempts, Options::max_attempts)
    }
}
