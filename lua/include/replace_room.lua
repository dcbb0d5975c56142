-- A room of a new generation in the place of a former one, of which nothing stays.
--
-- INCLUDE  create_room

-- Returns the fields of the new room. A decode prefix length that was recorded before any room was there stays.
local function replace_room(room, prefix, former, generation, request)
  redis.call('DEL', room)
  if former.status or redis.pcall('HGET', prefix, 'generation') then redis.call('DEL', prefix) end
  local fields = {}
  create_room(room, fields, generation, request)
  return fields
end
