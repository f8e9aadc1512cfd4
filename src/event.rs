//! What happens seldom, as events of the crate `tracing`: with the feature of that name.

/// `event!(level, "what happened", name = value, ...)`: every value is displayed.
macro_rules! event {
    ($level:ident, $what:literal $(, $name:ident = $value:expr)* $(,)?) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!($($name = %$value,)* $what);
        #[cfg(not(feature = "tracing"))]
        let _ = ($(&$value,)*);
    }};
}
