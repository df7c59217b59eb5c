//! What is known about every setting, and the one macro that makes a struct of settings from a list of rows.
//!
//! Pure: a row gives, in this order, the documentation line, the name, the [`Kind`], the default (left out where
//! PgBouncer's is NULL), the unit and when a change takes effect. From the rows the macro makes the struct with a typed
//! field per row, its `Default`, reading and printing by name, comparison, and the table itself, which feeds the
//! parsers, `SHOW CONFIG`, `SET`, the reference page and the sample files.

use super::values::Kind;

/// One row of a settings table.
#[derive(Clone, Copy, Debug)]
pub struct SettingInfo {
    /// The name, letter for letter PgBouncer's where it has one.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// How its value is written, in one or two words.
    pub kind: &'static str,
    /// What its numbers count; empty where there is nothing to say.
    pub unit: &'static str,
    /// The default as text; `None` where there is none.
    pub default: Option<&'static str>,
    /// When a change takes effect.
    pub change: Change,
    /// Whether PgBouncer knows it too.
    pub origin: Origin,
    /// One or two sentences for the reference.
    pub doc: &'static str,
    /// What is accepted, to stand after "expected".
    pub expected: fn() -> String,
    /// Whether its value must not be printed.
    pub secret: bool,
}

/// Where a setting may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `[pgbouncer]`: for the whole process.
    Process,
    /// `[databases]`: for one database.
    Database,
    /// `[users]`: for one user.
    User,
    /// `[peers]`: for one peer.
    Peer,
}

/// When a changed setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At RELOAD or SET.
    Reload,
    /// At the next start.
    Restart,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// PgBouncer's.
    Pgbouncer,
    /// Ours alone.
    Pgweir,
}

/// Why a text could not be put into a struct of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// There is no setting of that name.
    Unknown,
    /// The text is not what the setting's kind accepts.
    Value(&'static str),
}

/// The value of a row's default text, or the kind's empty value where there is none.
pub(super) fn default_value<K: Kind>(default: Option<&str>) -> K::Value {
    default.map_or_else(K::Value::default, |text| {
        K::parse(text).expect("a default in the table is of its row's kind; a test parses each of them")
    })
}

/// The default of a row as the table holds it.
macro_rules! default_text {
    () => {
        None
    };
    ($text:literal) => {
        Some($text)
    };
}

/// Makes a struct of settings from its rows; see the head of `config/table.rs`.
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $Struct:ident in $scope:ident, rows $TABLE:ident;
        $( $origin:ident { $(
            $(#[doc = $doc:literal])+
            $name:ident: $kind:ty $(= $default:literal)?, $unit:literal, $change:ident;
        )* } )+
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $Struct { $( $(
            $(#[doc = $doc])+
            pub $name: <$kind as $crate::config::values::Kind>::Value,
        )* )+ }

        /// The rows, in the order they are written.
        pub(super) static $TABLE: &[$crate::config::table::SettingInfo] = &[ $( $(
            $crate::config::table::SettingInfo {
                name: stringify!($name),
                scope: $crate::config::table::Scope::$scope,
                kind: <$kind as $crate::config::values::Kind>::NAME,
                unit: $unit,
                default: $crate::config::table::default_text!($($default)?),
                change: $crate::config::table::Change::$change,
                origin: $crate::config::table::Origin::$origin,
                doc: concat!($($doc),+),
                expected: <$kind as $crate::config::values::Kind>::expected,
                secret: <$kind as $crate::config::values::Kind>::SECRET,
            },
        )* )+ ];

        impl Default for $Struct {
            fn default() -> Self {
                $Struct { $( $(
                    $name: $crate::config::table::default_value::<$kind>(
                        $crate::config::table::default_text!($($default)?)
                    ),
                )* )+ }
            }
        }

        impl $Struct {
            /// Reads `text` into the field called `name`.
            pub(super) fn assign(&mut self, name: &str, text: &str) -> Result<(), $crate::config::table::Misfit> {
                match name {
                    $( $( stringify!($name) => {
                        self.$name = <$kind as $crate::config::values::Kind>::parse(text)
                            .ok_or($crate::config::table::Misfit::Value(stringify!($name)))?;
                    } )* )+
                    _ => return Err($crate::config::table::Misfit::Unknown),
                }
                Ok(())
            }

            /// Every value as text, in the order of the rows; `None` where nothing is set.
            #[allow(dead_code, reason = "only the [pgbouncer] settings are shown")]
            pub(super) fn texts(&self) -> Vec<Option<String>> {
                vec![ $( $( <$kind as $crate::config::values::Kind>::print(&self.$name), )* )+ ]
            }

            /// The rows in which `self` and `other` have different values.
            #[allow(dead_code, reason = "not every section is compared")]
            $vis fn differences(&self, other: &Self) -> Vec<&'static $crate::config::table::SettingInfo> {
                let differs = [ $( $( self.$name != other.$name, )* )+ ];
                $TABLE.iter().zip(differs).filter(|(_, differs)| *differs).map(|(row, _)| row).collect()
            }

            /// Puts back what `running` has wherever a change needs a restart; says which rows that undid.
            #[allow(dead_code, reason = "only the [pgbouncer] settings outlive a reload")]
            $vis fn keep_restart_only(&mut self, running: &Self) -> Vec<&'static $crate::config::table::SettingInfo> {
                let mut kept = self.differences(running);
                kept.retain(|row| row.change == $crate::config::table::Change::Restart);
                $( $(
                    if $crate::config::table::Change::$change == $crate::config::table::Change::Restart {
                        self.$name.clone_from(&running.$name);
                    }
                )* )+
                kept
            }
        }
    };
}

pub(super) use default_text;
pub(super) use settings;
