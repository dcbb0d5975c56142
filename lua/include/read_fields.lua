-- All fields of a room by name; empty if it is absent.
--
-- INCLUDE  limit

-- Returns the fields; and the error, if the key has another type (made by hand).
local function read_fields(room)
  local words, fields = redis.pcall('HGETALL', room), {}
  for i = 1, #words, 2 do fields[words[i]] = words[i + 1] end
  fields_read = fields_read + #words / 2
  return fields, words.err and words
end
