//! Reading JSON strictly: each value of the type that is expected, each error with the path of what is wrong.

#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::policy::near::nearest;
use crate::policy::rule::RuleError;

/// The error at a path.
///
/// # Errors
/// Always.
pub fn wrong<T>(path: impl Into<String>, message: impl Into<String>, hint: &str) -> Result<T, RuleError> {
    Err(RuleError { path: path.into(), message: message.into(), hint: hint.to_owned() })
}

/// The path of a key below another.
pub fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn wrong_type<T>(value: &Value, path: &str, wanted: &str) -> Result<T, RuleError> {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let hint = if value.is_null() { "Leave the key out." } else { "Change the value to that type." };
    wrong(path, format!("{found} where {wanted} is expected"), hint)
}

/// An object.
///
/// # Errors
/// A value of another type.
pub fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, RuleError> {
    value.as_object().map_or_else(|| wrong_type(value, path, "an object"), Ok)
}

/// An array.
///
/// # Errors
/// A value of another type.
pub fn array<'a>(value: &'a Value, path: &str) -> Result<&'a Vec<Value>, RuleError> {
    value.as_array().map_or_else(|| wrong_type(value, path, "an array"), Ok)
}

/// A string.
///
/// # Errors
/// A value of another type.
pub fn string(value: &Value, path: &str) -> Result<String, RuleError> {
    value.as_str().map_or_else(|| wrong_type(value, path, "a string"), |text| Ok(text.to_owned()))
}

/// An array of strings.
///
/// # Errors
/// A value of another type.
pub fn strings(value: &Value, path: &str) -> Result<Vec<String>, RuleError> {
    let each = |(i, item)| string(item, &format!("{path}[{i}]"));
    array(value, path)?.iter().enumerate().map(each).collect()
}

/// A boolean.
///
/// # Errors
/// A value of another type.
pub fn boolean(value: &Value, path: &str) -> Result<bool, RuleError> {
    value.as_bool().map_or_else(|| wrong_type(value, path, "a boolean"), Ok)
}

/// A whole number.
///
/// # Errors
/// A value of another type.
pub fn whole_number(value: &Value, path: &str) -> Result<i64, RuleError> {
    value.as_i64().map_or_else(|| wrong_type(value, path, "a whole number"), Ok)
}

/// The value of a key, if it is there.
///
/// # Errors
/// What `read` says of it.
pub fn optional<T>(
    map: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value, &str) -> Result<T, RuleError>,
) -> Result<Option<T>, RuleError> {
    map.get(key).map(|value| read(value, key)).transpose()
}

/// Proves that an object has no other keys.
///
/// # Errors
/// The first that is unknown, with the nearest known one.
pub fn known_keys(map: &Map<String, Value>, known: &[&str], path: &str) -> Result<(), RuleError> {
    for key in map.keys() {
        if !known.contains(&key.as_str()) {
            let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            let meant = match nearest(key, &names).first() {
                Some(name) => format!("Perhaps \"{name}\" is meant; the keys are {}.", known.join(", ")),
                None => format!("The keys are {}.", known.join(", ")),
            };
            return wrong(child(path, key), format!("unknown key \"{key}\""), &meant);
        }
    }
    Ok(())
}
