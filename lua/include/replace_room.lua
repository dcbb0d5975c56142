-- Replaces a room by one of a new generation, without any of its old fields.
--
-- INCLUDE  create_room

-- Returns the fields of the new room. A decode prefix length that was recorded before any room existed stays.
local function replace_room(room, prefix, former, generation, request, is_replayed)
  if next(former) then redis.call('DEL', room) end
  local fields = {}
  create_room(room, fields, generation, request, is_replayed)
  if former.status or redis.pcall('HGET', prefix, 'generation') then redis.call('DEL', prefix) end
  return fields
end
