-- The clear of a rank that a replay repeats: the rank's last status still counts for the others. The last one
-- removes the room, if no rank is yet to come.
--
-- INCLUDE  caller, changes, order, counts, room_id, remove_room

-- last: its last status, which a room that has failed may not have. has_change: whether the last change is one of this
-- room.
local function clear_replayed(room, prefix, fields, last, has_change)
  local counts, own = parse_counts(fields.counts), fields[status_field]
  if not own then counts[ORDER[last]] = counts[ORDER[last]] + 1 end
  local n = has_change and #changes - 5 or #changes
  if counts[5] + 1 - world_size >= 0 then
    remove_room(room, prefix, fields.generation, redis.call('HEXISTS', room, 'replayed') == 1)
    if failures and failures[room] then n = #changes end  -- a failure is told, though the room goes
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4], changes[n + 5] = room, 'absent', false, false, false
    fields.opened = nil
    return
  end
  redis.call('HSET', room, cleared_field, own or last, 'counts', format_cleared(counts))
  redis.call('HDEL', room, status_field, lease_field)
  if ranks_left(counts) <= 0 then
    redis.pcall('ZREM', KEYS[4], room_id(room))  -- as in clear_rank.lua
  end
  if not has_change then
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = room, fields.status, false, false
  end
  changes[n + 5] = {'rank:' .. rank, 'absent'}
end
