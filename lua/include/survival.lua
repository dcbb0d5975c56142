-- Whether a room that is absent was lost, by the feed of a server that has a prefix of the history. Times are
-- microseconds.
--
-- INCLUDE  clock, room_id
--
-- KEYS[1] is the feed. KEYS[5] has the rooms that were cleared after a replay had created them, by generation. A mark
-- names an entry: <id>/<room>/<status>, with one of its rooms and that room's status (or the new status of its rank).
-- Without a room, the id has to do. A server whose clock is behind may use an id again, for another entry.

local RECENT_US = 60000000  -- a replica or a disk that is further behind is none
local first_id

-- Returns true if the entry is there, false if it was lost, nil if the feed no longer reaches back to it.
local function survives(mark)
  local id, room, status = string.match(mark, '^(.-)/(%d*)/(.*)$')
  if not id then return nil end
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    if room == '' then return true end
    local fields = entry[2]
    for i = 1, #fields, 2 do
      local is_named = fields[i] == room
      if is_named and (status == '' or fields[i + 1] == status or fields[i + 3] == status) then return true end
    end
    return false
  end
  first_id = first_id or (redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', '1')[1] or {''})[1]
  local first_ms, first_number = string.match(first_id, '^(%d+)-(%d+)$')
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  if not first_ms or ms + 0 < first_ms + 0 or (ms == first_ms and number + 0 < first_number + 0) then return nil end
  return false
end

-- Returns why a room is not to be created again: 6 if it was cleared or has expired, 5 if that is its creator's task.
-- Nil if it is to be created.
local function absence(room, role, loss, generation, opened, written)
  if loss == 'none' or (loss == 'server' and survives(written)) then return 6 end
  if (redis.call('HGET', KEYS[5], room_id(room)) or '') >= generation then return 6 end
  if role ~= 'creator' then return 5 end
  if loss == 'data' then return nil end
  local is_opening_kept = survives(opened)
  if is_opening_kept == nil then
    read_clock()
    is_opening_kept = now_us - generation > RECENT_US
  end
  return is_opening_kept and 6 or nil
end
