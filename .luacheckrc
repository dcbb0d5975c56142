-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "next", "tonumber", "tostring", "type", "unpack" } }
max_line_length = 120

-- luacheck reads file by file, but a script is sent with its includes (redis_kvpoll/protocol/scripts.py): what one file defines,
-- others use. tests/test_lua_rules.py checks the names of whole scripts, so here it is enough to list all of them.
local included = {
  "ORDER", "now_ms", "now_us", "read_clock", "ensure_epoch", "room_id", "rank_fields", "rank_view", "read_fields",
  "corrupt_field", "is_number", "is_above",
  "consensus_of_ranks", "parse_counts", "ranks_left", "format_counts", "count_ranks", "format_cleared", "set_rank_status", "read_room",
  "merge", "write_room", "MAX_FIELDS", "clear_rank", "remove_room", "read_quick", "add_quick", "clear_quick", "write_quick",
  "number", "done", "found", "is_clear", "append_quick", "list_quick",
  "list_part", "take_part", "has_rooms", "set_due", "report", "end_lease", "forget", "report_next", "findings",
  "is_lease_lost", "next_generation", "create_room", "shared_count", "list_new_rooms", "none_exist",
  "replace_room", "write_status", "clear_replayed", "fail_room", "feed_position", "feed_end", "survives", "absence",
  "mark_lost", "sweep", "erase", "store_length", "is_other_type", "takes_no_entry",
}
local written = {
  "changes", "renew", "openings", "failures", "refused", "refused_room", "refused_by", "new_parts", "room_words",
  "is_created", "reply", "fields_read", "rank", "world_size", "owner", "incarnation", "author", "status_field",
  "cleared_field", "length_field", "lease_field", "words", "counts", "entry", "gone", "holders", "outcomes", "outcome", "common", "lengths", "incarnations", "size", "changed", "at",
}
files["lua"] = { read_globals = included, globals = written, ignore = { "241/reply" } }
files["lua/include"] = { globals = written, ignore = { "2[134]1" } }
