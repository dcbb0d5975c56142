-- What Redis gives to a script, and nothing else.
std = { read_globals = { "redis", "KEYS", "ARGV", "string", "math", "table", "ipairs", "pairs", "tonumber", "tostring" } }
max_line_length = 120
