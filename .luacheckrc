-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "tonumber", "tostring", "type", "unpack" } }
max_line_length = 120

-- A script that USES feed leaves these locals to lua/shared/feed.lua, which goes behind it.
ignore = { "[23]../reply", "[23]../changes", "[23]../renew" }
files["lua/shared/feed.lua"] = { read_globals = { "changes" }, globals = { "reply", "renew" } }

-- One that USES room has the locals of lua/shared/room.lua, which goes in front of it.
local given = {
  "ORDER", "rank", "world_size", "owner", "incarnation", "own", "cleared", "now_ms", "now_us", "clock", "see_to_epoch",
  "is_lease_lost", "next_generation", "fields_of", "view", "agreement", "create", "put",
}
files["lua/shared/room.lua"] = { ignore = { "2[13]1/.*" } }
for _, name in ipairs({ "write", "open", "restate" }) do
  files["lua/" .. name .. ".lua"] = { read_globals = given, globals = { "reply", "changes", "renew" } }
end

-- One that USES look has those of lua/shared/look.lua.
files["lua/shared/look.lua"] = { ignore = { "2[13]1/.*" } }
files["lua/lease.lua"] = { read_globals = { "now_ms", "now_us", "epoch", "condemn", "look" } }
