-- Clear a room for one of its ranks, as clear.lua does through a generation.
--
-- INCLUDE  caller, changes, order, counts, room_id, is_other_type, rank_view, read_room, remove_room
--
-- KEYS begin with feed, epoch, leases, owned, cleared.

local function add_change(room, status, words)
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4], changes[n + 5] = room, status, false, false, words
end

-- Returns the outcome and the rank's status before, or what replaces it; and whether that refuses a late message, which
-- clear.lua counts, too.
local function clear_rank(room, prefix, generation)
  local fields, type_error = read_room(room)
  local own = fields[status_field]
  local view = rank_view(fields.status, own, fields[cleared_field])
  if type_error then return 3, type_error end
  if generation == '' or fields.generation ~= generation then return 6, view, fields.status end
  if fields.world_size ~= world_size then return -3, fields.world_size or '', true end
  if not ORDER[fields.status] then return -4, 'status ' .. (fields.status or '') end
  if is_other_type(redis.pcall('HDEL', prefix, length_field)) then redis.call('DEL', prefix) end
  if not view then return 6, false end
  local counts = parse_counts(fields.counts)
  if not own then counts[0] = counts[0] + 1 end
  local is_last = ranks_left(counts) <= 1
  local is_replayed = is_last and redis.call('HEXISTS', room, 'replayed') == 1
  if is_last and not (is_replayed and counts[5] + 1 - world_size < 0) then
    remove_room(room, prefix, generation, is_replayed)
    add_change(room, 'absent', false)
    return 8, view
  end
  redis.call('HSET', room, cleared_field, own or 'Failed', 'counts', format_cleared(counts))
  redis.call('HDEL', room, status_field, lease_field)
  if is_last then redis.pcall('ZREM', KEYS[4], room_id(room)) end
  add_change(room, fields.status, {'rank:' .. rank, 'absent'})
  return 7, view
end
