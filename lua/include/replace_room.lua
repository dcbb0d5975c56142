-- Replaces a room by one of a new generation, without any of its old fields. Times are milliseconds.
--
-- INCLUDE  read_fields, create_room

-- Returns the fields of the new room. A decode prefix length that was recorded before any room existed stays. A script
-- that creates nothing at maxmemory must have made a write before that is refused there: here an HDEL may come first.
-- The room keeps its status until it gets the new one, so the key stays: while a cluster moves the slot, a script
-- cannot make one again.
local function replace_room(room, prefix, former, generation, request, changed_ms, is_without_prefix)
  if next(former) then
    local names = {}
    for name in pairs(read_fields(room)) do
      if name ~= 'status' then names[#names + 1] = name end
    end
    for first = 1, #names, 2000 do  -- unpack fails with many thousands
      redis.call('HDEL', room, unpack(names, first, math.min(first + 1999, #names)))
    end
  end
  local fields = {generation = generation, request = request, opened = false, status = nil}
  if owner ~= '' then fields.owner = owner end
  create_room(room, fields, changed_ms)
  if not is_without_prefix and (former.status or redis.pcall('HGET', prefix, 'generation')) then
    redis.call('DEL', prefix)
  end
  return fields
end
