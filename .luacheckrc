-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "tonumber", "tostring", "type", "unpack" } }
max_line_length = 120

-- A script that USES feed finds these: they are the locals of lua/shared/feed.lua, which goes before it.
read_globals = { "changed", "announced", "now_ms" }
globals = { "renew_feed", "entry", "rooms_in_entry" }
files["lua/shared"] = { unused = false, globals = {} }
