-- The fields of a room that a call for one rank needs, by name. Times are milliseconds.
--
-- INCLUDE  caller, counts, read_fields

-- Returns the fields, empty if the room is absent; and the error, if the key has another type (made by hand). A room
-- without valid counts is read whole, and counted. Who opens or replays it needs the opening, too.
local function read_room(room, is_opening)
  local names = {'status', 'generation', 'world_size', 'version', 'counts', status_field, cleared_field, lease_field}
  if is_opening then names[9], names[10], names[11], names[12] = 'request', 'owner', 'opened', 'opened_ms' end
  local values, fields = redis.pcall('HMGET', room, unpack(names)), {}
  if values.err then return fields, values end
  for i = 1, #names do fields[names[i]] = values[i] or nil end
  if rank ~= '' and fields.world_size and not parse_counts(fields.counts, fields[status_field]) then
    fields = read_fields(room)
    fields.counts = format_counts(count_ranks(fields))
  end
  return fields
end
