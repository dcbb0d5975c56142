-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "next", "tonumber", "tostring", "type", "unpack" } }
max_line_length = 120

-- luacheck reads file by file, but a script is sent with its includes (redis_kvpoll/protocol/scripts.py): what one file defines,
-- others use. tests/test_lua_rules.py checks the names of whole scripts, so here it is enough to list all of them.
local included = {
  "ORDER", "now_ms", "now_us", "read_clock", "ensure_epoch", "room_id", "rank_fields", "rank_view", "read_fields",
  "corrupt_field", "is_number", "is_above",
  "consensus_of_ranks", "rank", "world_size", "owner", "incarnation", "status_field", "cleared_field", "length_field",
  "lease_field", "list_part", "take_part", "has_rooms", "set_due", "find", "end_lease", "forget", "find_next", "findings",
  "is_lease_lost", "next_generation", "create_room", "replace_room", "opening_words", "write_status", "fail_room",
  "feed_position", "feed_end", "survives", "absence", "mark_lost", "sweep",
}
local written = { "changes", "renew", "openings", "refused", "refused_key", "reply" }
files["lua"] = { read_globals = included, globals = written, ignore = { "241/reply" } }
files["lua/include"] = { ignore = { "2[13]1" } }
