//! The settings that every statement of the agent carries, so that its user's profile neither changes an answer nor
//! refuses a statement. With `limit = 50` in the profile 50 of 100 parts were told, and the others believed lost, after
//! the nodes were deleted (issue 10).
//!
//! What the user may not change (`readonly`, `allow_ddl`, constraints) is refused by the server with the first statement,
//! and so found by a plan (`inspect/user.rs`). A value that the profile has already is never refused: the server looks at
//! constraints only where something changes (measured on 26.9).

use std::sync::{Arc, PoisonError, RwLock};

use rekeeper_shared::domain::ids::quote_literal;

/// A setting and the value that the agent relies on; that of a server without any profile.
pub(super) type Setting = (&'static str, &'static str);

/// Those of every server that Rekeeper moves.
pub(super) const ALWAYS: &[Setting] = &[
    ("readonly", "0"),
    ("allow_ddl", "1"),
    // How much of an answer there is.
    ("limit", "0"),
    ("offset", "0"),
    ("extremes", "0"),
    ("max_result_rows", "0"),
    ("max_result_bytes", "0"),
    ("result_overflow_mode", "throw"),
    // What is read and kept for it.
    ("max_rows_to_read", "0"),
    ("max_bytes_to_read", "0"),
    ("read_overflow_mode", "throw"),
    ("max_rows_to_group_by", "0"),
    ("group_by_overflow_mode", "throw"),
    ("max_rows_to_sort", "0"),
    ("max_bytes_to_sort", "0"),
    ("sort_overflow_mode", "throw"),
    ("max_rows_in_distinct", "0"),
    ("max_bytes_in_distinct", "0"),
    ("distinct_overflow_mode", "throw"),
    ("max_rows_in_set", "0"),
    ("max_bytes_in_set", "0"),
    ("set_overflow_mode", "throw"),
    ("max_rows_in_join", "0"),
    ("max_bytes_in_join", "0"),
    ("join_overflow_mode", "throw"),
    ("max_rows_to_transfer", "0"),
    ("max_bytes_to_transfer", "0"),
    ("transfer_overflow_mode", "throw"),
    ("max_columns_to_read", "0"),
    ("max_temporary_columns", "0"),
    ("max_temporary_non_const_columns", "0"),
    // How long it may take: a restore takes hours.
    ("max_execution_time", "0"),
    ("timeout_overflow_mode", "throw"),
    ("min_execution_speed", "0"),
    ("min_execution_speed_bytes", "0"),
    ("max_execution_speed", "0"),
    ("max_execution_speed_bytes", "0"),
    // What a statement may be.
    ("max_query_size", "262144"),
    ("max_ast_depth", "1000"),
    ("max_ast_elements", "50000"),
    ("max_expanded_ast_elements", "500000"),
    ("max_subquery_depth", "100"),
    // What it means.
    ("join_use_nulls", "0"),
    ("transform_null_in", "0"),
    ("prefer_column_name_to_alias", "0"),
    ("union_default_mode", ""),
    ("aggregate_functions_null_for_empty", "0"),
    ("empty_result_for_aggregation_by_empty_set", "0"),
    ("send_progress_in_http_headers", "0"),
    ("insert_deduplicate", "1"),
];

/// Those that came later, or may be gone one day: sent to servers that have them.
pub(super) const WHERE_KNOWN: &[Setting] = &[
    ("final", "0"),
    ("additional_table_filters", "{}"),
    ("additional_result_filter", ""),
    ("use_query_cache", "0"),
    ("implicit_transaction", "0"),
    ("join_default_strictness", "ALL"),
    ("any_join_distinct_right_table_keys", "0"),
    ("group_by_use_nulls", "0"),
    ("data_type_default_nullable", "0"),
    ("cast_keep_nullable", "0"),
    ("max_rows_to_read_leaf", "0"),
    ("max_bytes_to_read_leaf", "0"),
    ("read_overflow_mode_leaf", "throw"),
    ("max_execution_time_leaf", "0"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("max_estimated_execution_time", "0"),
    ("max_parser_backtracks", "1000000"),
    ("max_parser_depth", "1000"),
    ("lock_acquire_timeout", "120"),
    ("session_timezone", ""),
    ("bool_true_representation", "true"),
    ("http_write_exception_in_output_format", "0"),
    ("output_format_tsv_crlf_end_of_line", "0"),
    ("output_format_binary_encode_types_in_binary_format", "0"),
    ("show_table_uuid_in_table_create_query_if_not_nil", "0"),
    ("show_create_query_identifier_quoting_rule", "when_necessary"),
    ("show_create_query_identifier_quoting_style", "Backticks"),
];

/// Those that only make a server refuse what can be tried again: sent where the user may change them, so that a constraint
/// on the memory of everybody is no reason to move nothing.
const WHERE_ALLOWED: &[Setting] = &[
    ("max_memory_usage", "0"),
    ("max_memory_usage_for_user", "0"),
    ("max_concurrent_queries_for_user", "0"),
    ("max_concurrent_queries_for_all_users", "0"),
    ("max_network_bandwidth", "0"),
    ("max_network_bandwidth_for_user", "0"),
    ("priority", "0"),
];

/// All but those that a user may have to go without, as for the newest server.
pub(super) fn required() -> Vec<Setting> {
    [ALWAYS, WHERE_KNOWN].concat()
}

/// Takes away what the server does not know, by the text of its refusal, and says whether there was any.
///
/// They are not asked for: `use_query_cache`, `additional_result_filter` and others would falsify that answer as well.
pub(super) fn without_unknown(settings: &mut Vec<Setting>, text: &str) -> bool {
    let before = settings.len();
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    settings.retain(|setting| !WHERE_KNOWN.contains(setting) || !words.contains(&setting.0));
    settings.len() < before
}

/// The question which of the others the user may change; the answer has a name a line.
pub(super) fn question() -> String {
    let quoted: Vec<String> = WHERE_ALLOWED.iter().map(|(name, _)| quote_literal(name)).collect();
    format!(
        "SELECT name FROM system.settings WHERE name IN ({}) AND NOT readonly AND isNull(min)",
        quoted.join(", ")
    )
}

/// Those of the answer.
pub(super) fn allowed(answer: &str) -> impl Iterator<Item = Setting> {
    let has = move |setting: &Setting| answer.lines().any(|name| name == setting.0);
    WHERE_ALLOWED.iter().copied().filter(has)
}

/// What is sent to the server that is there now; nothing is known as long as it was not asked.
#[derive(Default)]
pub(super) struct Own(RwLock<Option<Arc<Vec<Setting>>>>);

impl Own {
    /// What is known.
    pub(super) fn known(&self) -> Option<Arc<Vec<Setting>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The server was asked, or has to be asked again: another one may be there now.
    pub(super) fn learn(&self, settings: Option<Arc<Vec<Setting>>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_setting_is_there_twice() {
        let all: Vec<&str> = [ALWAYS, WHERE_KNOWN, WHERE_ALLOWED]
            .concat()
            .iter()
            .map(|s| s.0)
            .collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn a_server_gets_only_what_it_has() {
        let mut settings = required();
        let refused = "Code: 115. DB::Exception: Unknown setting 'use_query_cache'. (UNKNOWN_SETTING)";
        assert!(without_unknown(&mut settings, refused));
        assert_eq!(settings.len(), required().len() - 1);
        assert!(settings.iter().all(|setting| setting.0 != "use_query_cache"));
        // What every server has is not what it means; then it is too old for all of them.
        assert!(!without_unknown(
            &mut settings,
            "Code: 115. DB::Exception: Unknown setting offset"
        ));
        assert!(!without_unknown(&mut settings, refused));
        let two: Vec<Setting> = allowed("priority\nsomething_else\nmax_memory_usage\n").collect();
        assert_eq!(two, [("max_memory_usage", "0"), ("priority", "0")]);
    }
}
