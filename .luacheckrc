-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "tonumber", "tostring", "type", "unpack" } }
max_line_length = 120

-- A script that USES feed leaves these locals to lua/shared/feed.lua, which goes behind it.
ignore = { "[23]../reply", "[23]../changes", "[23]../renew" }
files["lua/shared"] = { read_globals = { "changes" }, globals = { "reply", "renew" } }
